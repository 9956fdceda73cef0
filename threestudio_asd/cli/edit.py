"""``edit``: a picture, what it shows and what it shall show: the edited picture beside it.

A folder of its own below OUT holds the picture as it was edited (``original.png``), the result
(``edited.png``), both in one (``both.png``) and on a page with a slider (``index.html``).
"""

import argparse
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.files import written_whole

METHODS = ("asd-pair", "dds")
TINY = "tiny/asd-2d-edit"
AUTO = "auto"
#: Pixels to a side of the page's pictures.
LARGEST = 1024


@dataclass(frozen=True)
class Edit:
    """What was asked for: the two prompts, the row of the method table, and the config."""

    source: str
    target: str
    method: str
    config: str
    mask: str | None = None
    """A picture, white where the edit may be, or ``auto``."""

    @property
    def says(self) -> str:
        return f'"{self.source}" to "{self.target}" by {self.method}'


def read_picture(path: Path, background: str = "white"):
    """The picture at ``path`` as an RGB ``PIL.Image``, upright; what had to be done is said.

    Args:
        background: Colour (a name or #rrggbb) behind what is transparent.

    Raises:
        UserError: There is none, it is no picture, or ``background`` is no colour.
    """
    from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

    if not path.is_file():
        raise UserError(f"There is no picture {path}: give the path of a PNG, JPEG or WebP file.")
    try:
        behind = ImageColor.getrgb(background)[:3]
    except ValueError as error:
        raise UserError(
            f"--background {background} is no colour: give a name such as white, or #rrggbb."
        ) from error
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is no picture that can be read: {error}.") from error
    if min(image.size) < 2:
        raise UserError(f"{path} is {image.width} x {image.height} pixels: too few to edit.")
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{path} has more than 8 bits a channel ({image.mode}): save it with 8.")
    if image.has_transparency_data:
        log.info("%s is transparent in parts: %s is put behind it.", path, background)
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*behind, 255)), image)
    return image.convert("RGB")


def edit(
    picture: Path,
    wanted: Edit,
    out: Path,
    background: str = "white",
    plugins: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Path:
    """Edit ``picture``; returns the folder of the results, a new one below ``out``.

    Raises:
        UserError: No picture, or prompts, a config or overrides that cannot be used.
        Stopped: A signal ended the training.
    """
    from PIL import Image

    from threestudio_asd.studio.config.experiment import timestamps
    from threestudio_asd.studio.config.trials import folder_name, make_new

    log.setup_logging()
    image = read_picture(picture, background)
    _require_world(wanted)
    given = wanted.mask not in (None, AUTO)
    mask = _mask(Path(wanted.mask), image.size) if given else None
    try:
        name = folder_name(re.sub(r"[^\w.-]+", "_", f"{picture.stem}-{wanted.target}"))
        folder, _ = make_new(out, name, timestamps())
    except OSError as error:
        raise UserError(
            f"cannot keep results below {out}: {error}. Choose another place with --out."
        ) from error
    _save(folder / "original.png", image)
    if mask is not None:
        _save(folder / "mask.png", mask)
    result = _train(wanted, folder, plugins, overrides)
    if image.size != result.size:
        sizes = (*image.size, *result.size)
        log.info("%d x %d pixels were edited as %d x %d, and the result resized back.", *sizes)
        result = result.resize(image.size, Image.Resampling.LANCZOS)
    if mask is not None:
        result = Image.composite(result, image, mask)
    _show(folder, wanted, image, result)
    return folder


def _mask(path: Path, size: tuple[int, int]):
    """The mask at ``path``, black and white, of the picture's ``size``."""
    mask = read_picture(path, "black").convert("L")
    if mask.size != size:
        raise UserError(
            f"The mask {path} is {mask.width} x {mask.height} pixels and the picture {size[0]} x "
            f"{size[1]}: give it the picture's size."
        )
    mask = mask.point(lambda value: 255 if value > 127 else 0)
    if mask.getbbox() is None:
        raise UserError(f"The mask {path} is black: make it white where the edit is to be.")
    return mask


def _require_world(wanted: Edit) -> None:
    """The embedded world's model knows its own words alone."""
    from threestudio_asd.tiny.evaluation import parse_prompt

    if wanted.config != TINY:
        return
    for prompt in (wanted.source, wanted.target):
        try:
            parse_prompt(prompt)
        except UserError as error:
            raise UserError(
                f"{str(error).rstrip('.')}. For other pictures take Stable Diffusion: --config "
                "asd-2d-edit."
            ) from error


def _train(wanted: Edit, folder: Path, plugins: Sequence[str], overrides: Sequence[str]):
    """The edited picture, as large as the teacher's pictures are."""
    from PIL import Image

    from threestudio_asd.stop import Stopped
    from threestudio_asd.studio.run import launch

    values = [
        f"system.originals={folder / 'original.png'}",
        f"system.prompt_processor.prompt={wanted.target}",
        f"system.guidance.texts.reference_cond={wanted.source}",
        f"system.guidance.method={wanted.method}",
        *_masked(wanted, folder),
        *overrides,
        *(f"exp_root_dir={folder.parent}", f"name={folder.name}", "tag=trial"),
        "use_timestamp=false",
    ]
    signum = launch.main(["--config", wanted.config, "--train", *values], plugins=plugins)
    if signum is not None:
        raise Stopped(signum)
    (picture,) = (folder / "trial/save").glob("it*-test.png")
    with Image.open(picture) as image:
        return image.convert("RGB")


def _masked(wanted: Edit, folder: Path) -> list[str]:
    if wanted.mask is None:
        return []
    return [f"system.mask={AUTO if wanted.mask == AUTO else folder / 'mask.png'}"]


def _show(folder: Path, wanted: Edit, before, after) -> None:
    from PIL import Image

    from threestudio_asd.compare.report.slider import write_slider

    both = Image.new("RGB", (2 * before.width, before.height))
    both.paste(before, (0, 0))
    both.paste(after, (before.width, 0))
    _save(folder / "edited.png", after)
    _save(folder / "both.png", both)
    small = [picture.copy() for picture in (before, after)]
    for picture in small:
        picture.thumbnail((LARGEST, LARGEST))
    pictures = tuple(zip((wanted.source, wanted.target), map(_png, small), strict=True))
    lines = _judged(wanted, before, after) if wanted.config == TINY else []
    write_slider(folder / "index.html", f"Edited: {wanted.says}", pictures, lines)
    for line in lines:
        log.info(line)


def _judged(wanted: Edit, before, after) -> list[str]:
    """What the embedded world's judge says of both pictures."""
    import torch
    from PIL import Image

    from threestudio_asd.tiny.evaluation import parse_prompt
    from threestudio_asd.tiny.judge import load_judge
    from threestudio_asd.tiny.render import EVAL_SIZE

    sized = [p.resize((EVAL_SIZE,) * 2, Image.Resampling.LANCZOS) for p in (before, after)]
    rows = [torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8) for p in sized]
    images = torch.stack(rows).view(2, EVAL_SIZE, EVAL_SIZE, 3).permute(0, 3, 1, 2) / 255
    judge = load_judge()
    likely = judge.probability(images, *parse_prompt(wanted.target)).tolist()
    named = [f"a {color} {name}" for name, color in judge.name(images)]
    return [
        f'The judge calls the original "{named[0]}" and the result "{named[1]}"; probability of '
        f'"{wanted.target}": {likely[0]:.2f}, then {likely[1]:.2f}.'
    ]


def _png(image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def _save(path: Path, image) -> None:
    with written_whole(path) as partial:
        partial.write_bytes(_png(image))


def main(argv: Sequence[str], plugins: Sequence[str] = ()) -> None:
    """``threestudio-asd edit PICTURE --from ... --to ... [--method ...] [key=value ...]``"""
    parser = argparse.ArgumentParser(prog="threestudio-asd edit", description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--from", dest="source", required=True, help="what the picture shows")
    parser.add_argument("--to", dest="target", required=True, help="what it shall show")
    parser.add_argument("--method", default=METHODS[0], choices=METHODS)
    parser.add_argument("--config", default=TINY, help=f"default: {TINY}, the embedded world")
    parser.add_argument("--background", default="white", help="behind what is transparent")
    parser.add_argument("--mask", help="a picture, white where the edit may be, or auto")
    parser.add_argument("--out", type=Path, default=Path("outputs/edit"))
    args, overrides = parser.parse_known_args(list(argv))
    source, target = (" ".join(text.split()) for text in (args.source, args.target))
    if source == target:
        print(f'nothing to do: the picture shows "{source}" already.')
        return
    wanted = Edit(source, target, args.method, args.config, args.mask)
    folder = edit(args.picture, wanted, args.out, args.background, plugins, overrides)
    print(
        f"\n{wanted.says}\n"
        f"edited     {folder / 'edited.png'}\n"
        f"both       {folder / 'both.png'} (left the original)\n"
        f"page       {folder / 'index.html'}"
    )
