"""``refine``: meshes of each format go through it and come out as they were, in other colours."""

import numpy as np
import pytest
import trimesh
from foreign_meshes import MESHES, same_corners, write

from threestudio_asd.cli.main import main

SHORT = (
    *("trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.enable_progress_bar=false"),
    *("data.batch_size=1", "data.eval_width=16", "data.eval_height=16", "data.n_test_views=2"),
    *("system.geometry.fit_steps=60", "system.exporter.texture_size=64"),
    *("system.guidance.lora_rank=1", "system.exporter.save_preview=false"),
)


@pytest.fixture(autouse=True)
def textures():
    pytest.importorskip("xatlas")


def refined(path, out, *options):
    command = ["refine", str(path), "--prompt", "a red cube", "--out", str(out)]
    assert main([*command, *options, *SHORT]) == 0
    (folder,) = out.iterdir()
    assert (folder / "before_after.png").is_file()
    return folder / "refined.glb"


def one(path):
    """The single mesh of a GLB, where its scene puts it."""
    (mesh,) = trimesh.load_scene(path, process=False).dump()
    return mesh


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_shape_size_and_place_are_those_of_the_file(name, tmp_path):
    path = write(name, tmp_path / "in")
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    corners = MESHES[name].corners
    found = one(refined(path, tmp_path / "out"))
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before
    size = np.ptp(corners.reshape(-1, 3), axis=0).max()
    assert same_corners(found.triangles, corners) < 1e-6 * max(size, 1)
    material = found.visual.material
    assert material.metallicFactor == 0 and material.roughnessFactor == 1
    assert material.baseColorTexture.size == (64, 64)
    uv = found.visual.uv
    assert np.isfinite(uv).all() and uv.min() >= 0 and uv.max() <= 1
    assert np.allclose(np.linalg.norm(found.vertex_normals, axis=1), 1, atol=1e-4)


def test_what_is_no_mesh_is_told_and_nothing_is_made(tmp_path, capsys):
    path = tmp_path / "notes.glb"
    path.write_text("no mesh at all, but long enough to be one")
    command = ["refine", str(path), "--prompt", "a red cube", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "cannot be read as a mesh" in error and error.count("\n") == 1
    cube = write("box.obj", tmp_path / "in")
    command = ["refine", str(cube), "--prompt", "a hamburger", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "--config asd-refine" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_mesh_is_thinned_if_asked(tmp_path):
    path = write("sphere with colours of its vertices.ply", tmp_path / "in")
    found = one(refined(path, tmp_path / "out", "--decimate", "200", "--up", "z"))
    assert 60 < len(found.faces) <= 200
    low, high = trimesh.load_scene(path).bounds
    assert np.allclose(found.bounds, [low, high], atol=0.2 * (high - low).max())
