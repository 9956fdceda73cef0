"""The files of a cell: its figures, its pictures, and what other cells start from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from torch import Tensor

from threestudio_asd import log
from threestudio_asd.compare.archive import Archive
from threestudio_asd.compare.grid import Cell, Grid
from threestudio_asd.files import written_whole
from threestudio_asd.scene.foreign.clusters import clustered

Record = dict[str, Any]

FRAME_MS = 90  # of a turntable
VIEW_CELL = 0.045  # scene units: the detail that a mesh to be looked at keeps


def cell_file(out: Path, cell: Cell, kind: str) -> Path:
    """``json``: the record, written last. ``png``: the result's pictures. Of 3D results ``webp``: a
    turntable, ``ply``: a mesh. ``ckpt``: the weights, where other cells start from them."""
    return out / "cells" / f"{cell.name}.{kind}"


def read_record(path: Path) -> Record | None:
    """A cell's record; None if there is none, or an unreadable one, which is said aloud."""
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warn("%s is unreadable (%s); the cell does not count.", path, error)
        return None
    if not isinstance(record, dict):
        log.warn("%s holds no record; the cell does not count.", path)
        return None
    return record


def write_record(path: Path, record: Record) -> None:
    with written_whole(path) as partial:
        partial.write_text(json.dumps(record) + "\n")


def read_picture(archive: Archive, cell: Cell, kind: str) -> bytes | None:
    """A cell's ``png``, ``webp`` or ``ply``, from its single file or the archive of the folder."""
    path = cell_file(archive.folder, cell, kind)
    return path.read_bytes() if path.is_file() else archive.file(cell.name, kind)


def finished(grid: Grid, out: Path) -> dict[Cell, Record]:
    """The records of this grid's cells, single files or in the folder's archive; those of another
    config are left out, and named."""
    found, other, archive = {}, [], Archive.of(out)
    for cell in grid.cells:
        record = read_record(cell_file(out, cell, "json")) or archive.record(cell.name)
        if record is None:
            continue
        if record.get("config_hash") == grid.config_hash(cell):
            found[cell] = record
        else:
            other.append(cell.name)
    if other:
        names = ", ".join(other[:3]) + (", ..." if len(other) > 3 else "")
        log.warn(
            "%d cells in %s have figures of another config or version; they do not count (%s).",
            *(len(other), out, names),
        )
    return found


def save_picture(path: Path, images: Tensor) -> None:
    """Pictures (N, 3, h, w) in [0, 1] side by side, as PNG."""
    row = Image.fromarray(_bytes(images).swapaxes(0, 1).reshape(images.shape[2], -1, 3))
    with written_whole(path) as partial:
        row.save(partial, format="PNG")


def save_turntable(path: Path, images: Tensor) -> None:
    """Pictures (T, 3, h, w) in [0, 1] one after the other, for ever, as WebP."""
    first, *rest = (Image.fromarray(image) for image in _bytes(images))
    with written_whole(path) as partial:
        first.save(
            partial,
            format="WEBP",
            save_all=True,
            append_images=rest,
            duration=FRAME_MS,
            loop=0,
            quality=70,
        )


def save_mesh(path: Path, mesh: trimesh.Trimesh) -> None:
    """A binary PLY with vertex colours, of the detail that a small picture shows."""
    with written_whole(path) as partial:
        partial.write_bytes(_coarse(mesh, VIEW_CELL).export(file_type="ply"))


def _coarse(mesh: trimesh.Trimesh, cell: float) -> trimesh.Trimesh:
    """``mesh`` with the vertices of each cube of side ``cell`` (scene units) made one."""
    found = clustered(mesh.vertices, mesh.faces, cell, mesh.visual.vertex_colors)
    vertices, faces, colors = found
    colors = colors.round().astype(np.uint8)
    return trimesh.Trimesh(vertices, faces, vertex_colors=colors, process=False)


def _bytes(images: Tensor) -> np.ndarray:
    """(N, 3, h, w) in [0, 1] to (N, h, w, 3) bytes; grey where a value is not a number."""
    values = images.nan_to_num(0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return (values * 255).round().byte().numpy()
