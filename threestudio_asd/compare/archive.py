"""Many cells in a few files: what a folder of results is kept as.

``cells.jsonl`` has a line for each cell, its record and where its picture lies on the sheet
``pictures-*.webp``; ``scenes-*.zip`` holds turntables and meshes. Lines are plain text: git
compresses them as well as any archive would, and shows what changed. A sheet and a zip are named by
their content, so that a packing that is cut off leaves the archive that was there. Cells that are
single files in ``cells/`` go before those of the archive.
"""

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from threestudio_asd.errors import UserError
from threestudio_asd.files import written_whole

VERSION = 1
INDEX = "cells.jsonl"
SCENE_KINDS = ("webp", "ply")
_SIDE = 16383  # of a WebP picture, at most

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Archive:
    """The packed cells of a folder; none if it has no archive.

    Raises:
        UserError: The archive cannot be read, or is of a later version.
    """

    folder: Path
    header: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> its ``record``, and the ``box`` of its picture (left, upper, right, lower)."""

    @classmethod
    def of(cls, folder: Path) -> "Archive":
        """The archive in ``folder``."""
        index = folder / INDEX
        if not index.is_file():
            return cls(folder)
        header, cells = {}, {}
        for number, line in enumerate(index.read_text("utf-8").splitlines(), 1):
            try:
                found = json.loads(line)
                if number == 1:
                    header = {"archive": None, **found}
                else:
                    cells[found["cell"]] = {"box": found.get("box"), "record": found["record"]}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"The archive {index} cannot be read (line {number}: {error}); restore it, or "
                    "move it away: its cells are then run again."
                ) from error
        if header.get("archive") != VERSION:
            raise UserError(
                f"The archive {index} is of version {header.get('archive')}; this is "
                f"version {VERSION}."
            )
        return cls(folder, header, cells)

    def record(self, name: str) -> dict[str, Any] | None:
        """The record of the cell ``name``."""
        return self.cells[name]["record"] if name in self.cells else None

    def file(self, name: str, kind: str) -> bytes | None:
        """A cell's ``png``, ``webp`` or ``ply``; None if there is none."""
        if name not in self.cells:
            return None
        if kind == "png":
            box = self.cells[name]["box"]
            return self._picture(box and tuple(box))
        return self._scenes.get(f"{name}.{kind}")

    def _picture(self, box: Box | None) -> bytes | None:
        if box is None:
            return None
        target = io.BytesIO()
        self._sheet.crop(box).save(target, format="PNG")
        return target.getvalue()

    @cached_property
    def _sheet(self) -> Image.Image:
        with self._part("pictures") as path:
            image = Image.open(path)
            image.load()
            return image.convert("RGB")

    @cached_property
    def _scenes(self) -> dict[str, bytes]:
        if not self.header.get("scenes"):
            return {}
        with self._part("scenes") as path, zipfile.ZipFile(path) as files:
            return {name: files.read(name) for name in files.namelist()}

    @contextlib.contextmanager
    def _part(self, key: str) -> Iterator[Path]:
        """A file of the archive; what is wrong with it is a UserError that names it."""
        path = self.folder / str(self.header.get(key))
        try:
            yield path
        except (OSError, zipfile.BadZipFile, ValueError) as error:
            raise UserError(
                f"{path}, a part of an archive of results, cannot be read ({error}); restore "
                f"it, or move {INDEX} beside it away: its cells are then run again."
            ) from error


def pack(folder: Path) -> int:
    """Put the single files of ``folder`` into its archive, and remove them; checkpoints, from which
    other cells start, stay.

    Returns:
        How many cells the archive holds.

    Raises:
        UserError: There is nothing to pack, or something cannot be read; nothing is removed then.
    """
    old = Archive.of(folder)
    singles = {path.stem: path for path in sorted((folder / "cells").glob("*.json"))}
    if not singles and not old.cells:
        raise UserError(f"There are no cells in {folder} to pack.")
    names = sorted({*singles, *old.cells})
    lines, pictures, scenes = {}, {}, {}
    for name in names:
        single = singles.get(name)
        lines[name] = old.record(name) if single is None else _record(single)
        files = {k: _bytes(old, single, name, k) for k in ("png", *SCENE_KINDS)}
        if files["png"] is not None:
            pictures[name] = Image.open(io.BytesIO(files["png"])).convert("RGB")
        scenes |= {f"{name}.{k}": files[k] for k in SCENE_KINDS if files[k] is not None}
    sheet, boxes = _sheet(pictures)
    header = {
        "archive": VERSION,
        "pictures": _write(folder, "pictures", "webp", sheet),
        "scenes": _write(folder, "scenes", "zip", _zipped(scenes)) if scenes else None,
    }
    rows = [{"cell": n, "box": boxes.get(n), "record": record} for n, record in lines.items()]
    with written_whole(folder / INDEX) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in (header, *rows)), "utf-8")
    for path in (*folder.glob("pictures-*.webp"), *folder.glob("scenes-*.zip")):
        if path.name not in header.values():
            path.unlink()
    for name in singles:
        for kind in ("png", *SCENE_KINDS, "json"):
            (folder / "cells" / f"{name}.{kind}").unlink(missing_ok=True)
    return len(names)


def _record(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(
            f"The record {path} cannot be read ({error}); remove it, and its cell is run again."
        ) from error


def _bytes(old: Archive, single: Path | None, name: str, kind: str) -> bytes | None:
    if single is None:
        return old.file(name, kind)
    path = single.with_suffix(f".{kind}")
    return path.read_bytes() if path.is_file() else None


def _sheet(pictures: dict[str, Image.Image]) -> tuple[bytes, dict[str, Box]]:
    """The pictures in columns on one sheet, losslessly, and where each of them is."""
    width = max((image.width for image in pictures.values()), default=1)
    heights = [image.height for image in pictures.values()] or [1]
    # About as high as wide: what is far too long for a format is no better to look at.
    column = min(_SIDE, max(*heights, round((sum(heights) * width) ** 0.5)))
    boxes, x, y = {}, 0, 0
    for name, image in pictures.items():
        if y + image.height > column:
            x, y = x + width, 0
        boxes[name] = (x, y, x + image.width, y + image.height)
        y += image.height
    if x + width > _SIDE:
        raise UserError(f"{len(pictures)} pictures do not fit onto one sheet; pack fewer cells.")
    sheet = Image.new("RGB", (x + width, column if x else max(y, 1)))
    for name, image in pictures.items():
        sheet.paste(image, boxes[name][:2])
    target = io.BytesIO()
    sheet.save(target, format="WEBP", lossless=True, quality=100, method=6)
    return target.getvalue(), boxes


def _zipped(files: dict[str, bytes]) -> bytes:
    """Equal files give equal bytes."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_LZMA
            archive.writestr(entry, content)
    return target.getvalue()


def _write(folder: Path, stem: str, suffix: str, content: bytes) -> str:
    name = f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.{suffix}"
    with written_whole(folder / name) as partial:
        partial.write_bytes(content)
    return name
