"""Cells packed into a few files: nothing of them changes, and nothing is lost on the way."""

import json

import pytest
import torch
import trimesh
from PIL import Image
from processes import ROOT

from threestudio_asd.compare import archive as archives
from threestudio_asd.compare.archive import INDEX, Archive, pack
from threestudio_asd.compare.grid import load_grid
from threestudio_asd.compare.records import (
    cell_file,
    finished,
    read_picture,
    save_mesh,
    save_picture,
    save_turntable,
    write_record,
)
from threestudio_asd.errors import UserError


@pytest.fixture
def grid(small):
    return small()


@pytest.fixture
def filled(grid, tmp_path):
    """A folder of single files: records, pictures, and of some cells a turntable and a mesh."""
    (tmp_path / "cells").mkdir()
    for i, cell in enumerate(grid.cells):
        figures = {"config_hash": grid.config_hash(cell), "p_pair": [0.1 + i / 3, 1e-17 * i]}
        write_record(cell_file(tmp_path, cell, "json"), {"method": cell.method, **figures})
        save_picture(cell_file(tmp_path, cell, "png"), torch.rand(2, 3, 64, 64 - i))
        if i % 2:
            save_turntable(cell_file(tmp_path, cell, "webp"), torch.rand(3, 3, 32, 32))
            ball = trimesh.creation.icosphere(subdivisions=1)
            save_mesh(cell_file(tmp_path, cell, "ply"), ball)
    return tmp_path


def seen(grid, folder):
    """Everything that a page shows: records, pixels, bytes of turntables and meshes."""
    archive = Archive.of(folder)
    shown = {}
    for cell in grid.cells:
        png = read_picture(archive, cell, "png")
        pixels = None
        if png is not None:
            (folder / "x.png").write_bytes(png)
            pixels = Image.open(folder / "x.png").convert("RGB").tobytes()
        shown[cell] = (pixels, *(read_picture(archive, cell, kind) for kind in ("webp", "ply")))
    return finished(grid, folder), shown


def test_packing_changes_nothing_that_is_seen(grid, filled):
    before = seen(grid, filled)
    assert pack(filled) == len(grid.cells)
    assert not list((filled / "cells").iterdir())
    assert seen(grid, filled) == before
    files = sorted(path.name.split("-")[0] for path in filled.iterdir() if path.is_file())
    assert files == ["cells.jsonl", "pictures", "scenes", "x.png"]


@pytest.mark.slow
def test_packing_again_changes_no_byte_and_takes_in_what_is_new(grid, filled):
    pack(filled)
    content = {path.name: path.read_bytes() for path in filled.iterdir() if path.is_file()}
    pack(filled)
    assert {path.name: path.read_bytes() for path in filled.iterdir() if path.is_file()} == content
    cell = grid.cells[0]
    newer = {"method": cell.method, "config_hash": grid.config_hash(cell), "p_pair": [0.5]}
    write_record(cell_file(filled, cell, "json"), newer)
    save_picture(cell_file(filled, cell, "png"), torch.zeros(2, 3, 64, 64))
    before = seen(grid, filled)
    assert before[0][cell] == newer  # a single file goes before the archive
    assert pack(filled) == len(grid.cells)
    assert seen(grid, filled) == before
    assert len(list(filled.glob("pictures-*"))) == 1


@pytest.mark.slow
def test_a_packing_that_is_cut_off_loses_nothing(grid, filled, monkeypatch):
    before = seen(grid, filled)
    whole = archives.written_whole

    def full(path):
        if str(path).endswith(INDEX):
            raise OSError(28, "No space left on device")
        return whole(path)

    monkeypatch.setattr(archives, "written_whole", full)
    with pytest.raises(OSError, match="No space"):
        pack(filled)
    monkeypatch.undo()
    assert seen(grid, filled) == before
    pack(filled)
    assert seen(grid, filled) == before
    assert len(list(filled.glob("pictures-*"))) == 1


def test_a_damaged_archive_is_named(grid, filled):
    pack(filled)
    (sheet,) = filled.glob("pictures-*")
    sheet.write_bytes(b"no picture")
    with pytest.raises(UserError, match=f"{sheet.name}.*restore it"):
        read_picture(Archive.of(filled), grid.cells[0], "png")
    (scenes,) = filled.glob("scenes-*")
    scenes.unlink()
    with pytest.raises(UserError, match=f"{scenes.name}.*restore it"):
        read_picture(Archive.of(filled), grid.cells[1], "ply")
    index = filled / INDEX
    lines = index.read_text().splitlines()
    for number, text in ((2, "{"), (2, "[]"), (1, '{"archive": 9}')):
        broken = [*lines]
        broken[number - 1] = text
        index.write_text("\n".join(broken))
        with pytest.raises(UserError, match=r"line 2|of version 9"):
            Archive.of(filled)


def test_unreadable_records_and_empty_folders_are_told_and_nothing_is_removed(grid, filled):
    path = cell_file(filled, grid.cells[0], "json")
    path.write_text("{")
    with pytest.raises(UserError, match=f"{path.name}.*run again"):
        pack(filled)
    assert len(list((filled / "cells").glob("*.json"))) == len(grid.cells)
    with pytest.raises(UserError, match="no cells in"):
        pack(filled / "elsewhere")


def test_records_of_another_config_do_not_count(grid, filled, caplog):
    pack(filled)
    index = filled / INDEX
    header, *lines = (json.loads(line) for line in index.read_text().splitlines())
    lines[0]["record"]["config_hash"] = "other"
    index.write_text("\n".join(json.dumps(line) for line in (header, *lines)))
    assert len(finished(grid, filled)) == len(grid.cells) - 1
    assert "do not count" in caplog.text


@pytest.mark.parametrize(("name", "count"), [("2d", 192), ("recover", 104)])
def test_the_published_records_count(name, count, caplog):
    grid, out = load_grid(f"compare/{name}"), ROOT / "benchmarks/results/compare" / name
    assert len(finished(grid, out)) == count == len(grid.cells)
    assert "do not count" not in caplog.text


@pytest.mark.parametrize(
    "folder", sorted(ROOT.glob("benchmarks/results/compare/*/")), ids=lambda path: path.name
)
def test_every_published_archive_is_whole(folder):
    archive = Archive.of(folder)
    last = list(archive.cells)[-1]
    assert archive.record(last) and archive.file(last, "png")
    if archive.header["scenes"]:
        assert any(archive.file(name, "webp") for name in archive.cells)
