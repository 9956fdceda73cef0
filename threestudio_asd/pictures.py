"""A folder of pictures with captions, in the form that datasets' ``imagefolder`` and diffusers'
training scripts read: ``metadata.jsonl`` beside the pictures, a line for each,

    {"file_name": "0001.png", "text": "a red mug on a table"}
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from threestudio_asd import homes, log
from threestudio_asd.errors import UserError

METADATA = "metadata.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
#: What lies behind transparent parts.
BEHIND = (255, 255, 255)


def captioned(folder: str | Path) -> dict[Path, str]:
    """The captions of the pictures in ``folder``, by file; none is opened.

    Raises:
        UserError: There is no such folder or no ``metadata.jsonl`` in it, a line cannot be read, or
            pictures and captions are not one to one.
    """
    folder = homes.expanded(folder)
    if not folder.is_dir():
        raise UserError(f"There is no folder of pictures '{folder}': check reals.folder.")
    metadata = folder / METADATA
    if not metadata.is_file():
        raise UserError(
            f"The folder {folder} has no {METADATA}: write one with a line for each picture, "
            '{"file_name": "0001.png", "text": "a red mug"}.'
        )
    found: dict[Path, str] = {}
    for number, line in enumerate(_lines(metadata), 1):
        if line.strip():
            file, text = _entry(metadata, number, line)
            if file in found:
                raise UserError(f"{metadata} has two captions for {file.name}; keep one.")
            found[file] = text
    _require_pairs(folder, found)
    return found


def _lines(metadata: Path) -> list[str]:
    try:
        return metadata.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{metadata} cannot be read: {error}.") from error


def _entry(metadata: Path, number: int, line: str) -> tuple[Path, str]:
    try:
        entry = json.loads(line)
        name, text = entry["file_name"], entry["text"]
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError("file_name and text must be texts")
    except (ValueError, KeyError, TypeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"Line {number} of {metadata} cannot be read ({what}); it should be as "
            '{"file_name": "0001.png", "text": "a red mug"}.'
        ) from error
    return metadata.parent / name, text


def _require_pairs(folder: Path, found: dict[Path, str]) -> None:
    files = {file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES}
    there = {file for file in files | found.keys() if file.is_file()}
    if there == found.keys() and there:
        return
    if not there:
        raise UserError(f"The folder {folder} has no pictures ({', '.join(SUFFIXES)}).")
    without, lost = sorted(there - found.keys()), sorted(found.keys() - there)
    told = [
        f"{len(files)} without a {lack} (such as {files[0].relative_to(folder)})"
        for lack, files in (("caption", without), ("picture", lost))
        if files
    ]
    raise UserError(
        f"The folder {folder} has {len(there)} pictures and {len(found)} captions in its "
        f"{METADATA}: {' and '.join(told)}. Give each picture one caption."
    )


def read_pictures(
    files: Sequence[Path], size: int, batch: int
) -> Iterator[tuple[list[int], Float[Tensor, "B 3 _ _"]]]:
    """Pictures in [0, 1], at most ``batch`` at a time, with their numbers among ``files``. A file
    that cannot be read is named and left out."""
    for start in range(0, len(files), batch):
        found = {}
        for i, file in enumerate(files[start : start + batch], start):
            try:
                found[i] = read_picture(file, size)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                log.warn("%s is no picture that can be read (%s); it is left out.", file, error)
        if found:
            yield list(found), torch.stack(list(found.values()))


def read_picture(file: Path, size: int) -> Float[Tensor, "3 _ _"]:
    """The middle square of a picture, in [0, 1] with sides of ``size`` pixels; white behind its
    transparent parts, upright as its camera noted.

    Raises:
        OSError, SyntaxError, ValueError: Pillow cannot read it.
    """
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGBA")
    behind = Image.new("RGBA", image.size, (*BEHIND, 255))
    opaque = Image.alpha_composite(behind, image).convert("RGB")
    square = ImageOps.fit(opaque, (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
