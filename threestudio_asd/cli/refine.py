"""``refine``: new colours for a mesh that is there, by a prompt; its shape stays to the last digit.

A folder of its own below OUT holds ``refined.glb``, of the same size, place and axes as the file,
and ``before_after.png``; the file itself is not written to.
"""

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.files import written_whole

TINY = "tiny/asd-refine"
#: Of the pictures before and after: degrees, pixels.
VIEWS = [0.0, 90.0, 180.0, 270.0]
ELEVATION, FOVY, DISTANCE, REACH, SIZE = 15.0, 45.0, 2.5, 0.85, 256


def refine(
    path: Path,
    prompt: str,
    out: Path,
    config: str = TINY,
    up: str | None = None,
    decimate: int | None = None,
    plugins: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Path:
    """Distil the colours of the mesh at ``path``; returns the folder of the results, a new one
    below ``out``.

    Args:
        up: The file's axis that points up, y or z; see ``scene.foreign.read_mesh``.
        decimate: At most so many faces; changes the shape.

    Raises:
        UserError: The mesh, the prompt, the config or an override cannot be used.
        Stopped: A signal ended the training.
    """
    from threestudio_asd.scene.foreign.reading import read_mesh
    from threestudio_asd.stop import Stopped
    from threestudio_asd.studio.config.experiment import timestamps
    from threestudio_asd.studio.config.trials import folder_name, make_new
    from threestudio_asd.studio.run import launch

    log.setup_logging()
    # What is wrong with it is told before a folder is made.
    mesh = read_mesh(path, up, decimate)
    log.info("%s: %d faces.", path, len(mesh.faces))
    for note in mesh.notes:
        log.info(note)
    _require_world(prompt, config)
    try:
        name = folder_name(re.sub(r"[^\w.-]+", "_", f"{path.stem}-{prompt}"))
        folder, _ = make_new(out, name, timestamps())
    except OSError as error:
        raise UserError(
            f"cannot keep results below {out}: {error}. Choose another place with --out."
        ) from error
    values = [
        f"system.geometry.mesh={path.resolve()}",
        f"system.prompt_processor.prompt={prompt}",
        *([] if up is None else [f"system.geometry.mesh_up={up}"]),
        *([] if decimate is None else [f"system.geometry.decimate={decimate}"]),
        *overrides,
        *(f"exp_root_dir={folder.parent}", f"name={folder.name}", "tag=trial"),
        "use_timestamp=false",
    ]
    signum = launch.main(["--config", config, "--train", *values], plugins=plugins)
    if signum is not None:
        raise Stopped(signum)
    trial = folder / "trial"
    parsed, last = trial / "configs/parsed.yaml", trial / "ckpts/last.ckpt"
    launch.main(["--config", str(parsed), "--export", f"resume={last}"], plugins=plugins)
    (made,) = (trial / "save").glob("it*-export/*.glb")
    with written_whole(folder / "refined.glb") as partial:
        shutil.copyfile(made, partial)
    _show(folder, mesh, prompt if config == TINY else None)
    return folder


def _require_world(prompt: str, config: str) -> None:
    """The embedded world's model knows its own words alone."""
    from threestudio_asd.tiny.evaluation import parse_prompt

    if config != TINY:
        return
    try:
        parse_prompt(prompt)
    except UserError as error:
        raise UserError(
            f"{str(error).rstrip('.')}. For other things take Stable Diffusion: --config "
            "asd-refine."
        ) from error


def _show(folder: Path, before: Any, prompt: str | None) -> None:
    """``before_after.png``: the file's colours above the new ones, without light; what the judge
    says of both, of a ``prompt`` of the embedded world."""
    import torch

    from threestudio_asd.compare.measure.foreign import fixed_views_of, opinion
    from threestudio_asd.compare.records import save_picture
    from threestudio_asd.scene.foreign.reading import read_mesh
    from threestudio_asd.scene.foreign.views import seen
    from threestudio_asd.tiny.evaluation import parse_prompt

    rows, said = [], []
    for mesh in (before, read_mesh(folder / "refined.glb", before.up)):
        placed = mesh.in_ball(REACH)
        views = seen(mesh, placed, VIEWS, ELEVATION, DISTANCE, FOVY, SIZE)
        picture = torch.where(views.mask, views.albedo, torch.ones(3))
        rows.append(picture.permute(0, 3, 1, 2))
        if prompt is not None:
            said.append(opinion(fixed_views_of(mesh, placed), *parse_prompt(prompt)))
    save_picture(folder / "before_after.png", torch.cat(rows, dim=2))
    if prompt is not None:
        (right, likely), (then, probability) = said
        log.info(
            "The judge names %d of 8 views right, before %d; probability %.2f, before %.2f.",
            *(then, right, probability, likely),
        )


def main(argv: Sequence[str], plugins: Sequence[str] = ()) -> None:
    """``threestudio-asd refine MESH --prompt ... [key=value ...]``"""
    parser = argparse.ArgumentParser(prog="threestudio-asd refine", description=__doc__)
    parser.add_argument("mesh", type=Path, help="a GLB, OBJ or PLY file")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--config", default=TINY, help=f"default: {TINY}, the embedded world")
    parser.add_argument("--up", choices=("y", "z"), help="the file's axis that points up")
    parser.add_argument("--decimate", type=int, metavar="FACES", help="at most so many faces")
    parser.add_argument("--out", type=Path, default=Path("outputs/refine"))
    args, overrides = parser.parse_known_args(list(argv))
    options = (args.config, args.up, args.decimate, plugins, overrides)
    folder = refine(args.mesh, " ".join(args.prompt.split()), args.out, *options)
    print(
        f"\nrefined    {folder / 'refined.glb'}\n"
        f"pictures   {folder / 'before_after.png'} (upper row the file, lower row the result)\n"
        f"trial      {folder / 'trial'}"
    )
