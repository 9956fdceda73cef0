"""Meshes from elsewhere: read at their places, in their colours; what is wrong is told."""

import numpy as np
import pytest
import torch
import trimesh
from foreign_meshes import (
    BLUE,
    GREEN,
    MESHES,
    RED,
    box,
    colored,
    same_corners,
    sphere,
    textured,
    write,
)
from trimesh.visual.material import PBRMaterial
from trimesh.visual.texture import TextureVisuals

from threestudio_asd.errors import UserError
from threestudio_asd.scene.foreign import reading
from threestudio_asd.scene.foreign.mesh import unfit_uv
from threestudio_asd.scene.foreign.reading import read_mesh
from threestudio_asd.scene.foreign.views import seen
from threestudio_asd.scene.formats import linear_to_srgb, srgb_to_linear, write_mesh
from threestudio_asd.scene.mesh import Mesh

MIDDLE = np.full((1, 3), 1 / 3)


def colors(mesh):
    """In the middle of each face."""
    return mesh.colors(np.arange(len(mesh.faces)), MIDDLE.repeat(len(mesh.faces), 0))


@pytest.mark.parametrize("name", MESHES)
def test_a_file_is_read_at_its_place(name, tmp_path):
    mesh = read_mesh(write(name, tmp_path / "in"))
    assert same_corners(mesh.vertices[mesh.faces], MESHES[name].corners) < 2e-6 * 30
    assert np.allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-5)
    assert (mesh.uv is not None) == name.startswith("textured")
    assert mesh.up == "y"
    for text, names in (
        ("2 meshes or materials become one", ["two materials.glb"]),
        ("not a manifold (1 edges", ["no manifold.ply"]),
        ("It has no colours", ["box.glb", "box.obj", "box.ply", "no manifold.ply"]),
    ):
        assert any(text in note for note in mesh.notes) == (name in names), mesh.notes
    assert any("are made" in note for note in mesh.notes) == (mesh.uv is None)


def test_colours_of_each_kind(tmp_path):
    half = (np.array(MESHES["textured box.glb"].scene.visual.uv)[::3, 0] > 0.5).astype(int)
    for name in ("textured box.glb", "textured box.obj"):
        found = colors(read_mesh(write(name, tmp_path / name)))
        assert np.allclose(found, np.array([RED, BLUE])[half, :3] / 255, atol=0.02)
    for name in (
        "sphere with colours of its vertices.glb",
        "sphere with colours of its vertices.ply",
    ):
        mesh = read_mesh(write(name, tmp_path / name))
        height = mesh.vertices[mesh.faces][..., 2]
        found = colors(mesh)
        assert np.allclose(found[(height > 0).all(1)], np.array(RED[:3]) / 255)
        assert np.allclose(found[(height < 0).all(1)], np.array(BLUE[:3]) / 255)
    found = colors(read_mesh(write("two materials.glb", tmp_path / "two")))
    assert (np.abs(found - (1, 0, 0)).max(1) < 0.02).sum() >= 12
    assert np.allclose(colors(read_mesh(write("box.obj", tmp_path / "grey"))), 0.5)


def test_gltf_multiplies_linear_colours(tmp_path):
    factor = (np.array([0.5, 0.25, 0.0, 1]) * 255).round() / 255
    mesh = box()
    mesh.visual = TextureVisuals(material=PBRMaterial(baseColorFactor=factor))
    mesh.export(tmp_path / "a.glb")
    assert np.allclose(colors(read_mesh(tmp_path / "a.glb")), linear_to_srgb(factor[:3]), atol=1e-3)
    values = np.linspace(0, 1, 99)
    assert np.allclose(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-4)


def test_faces_may_have_colours(tmp_path):
    mesh = box()
    mesh.visual.face_colors = np.array([RED, GREEN] * 6, dtype=np.uint8)
    mesh.export(tmp_path / "a.ply")
    assert np.allclose(
        colors(read_mesh(tmp_path / "a.ply")), np.array([RED, GREEN] * 6)[:, :3] / 255
    )


def test_in_the_ball_and_in_the_scene(tmp_path):
    mesh = read_mesh(write("box.glb", tmp_path / "in"))
    ball = mesh.in_ball(0.85)
    assert ball.v_pos.norm(dim=1).max().item() == pytest.approx(0.85, abs=1e-6)
    assert torch.allclose(ball.v_pos.amax(0), -ball.v_pos.amin(0), atol=1e-6)
    # y up, the front towards +z: 4 deep, 1 wide, 2 high.
    size = ball.v_pos.amax(0) - ball.v_pos.amin(0)
    assert torch.allclose(size / size[1], torch.tensor([4.0, 1.0, 2.0]), atol=1e-5)
    placed = mesh.in_scene().v_pos.numpy()
    assert np.array_equal(placed[:, [1, 2, 0]], mesh.vertices)
    upright = read_mesh(write("box.obj", tmp_path / "obj"), up="z")
    assert np.array_equal(upright.in_scene().v_pos.numpy(), upright.vertices)


def test_files_of_this_project_say_what_is_up(tmp_path):
    mesh = Mesh(torch.rand(4, 3), torch.tensor([[0, 1, 2], [0, 2, 3]]))
    for suffix, up in (("glb", "y"), ("obj", "z"), ("ply", "z")):
        write_mesh(tmp_path / f"a.{suffix}", mesh)
        found = read_mesh(tmp_path / f"a.{suffix}")
        assert found.up == up
        assert np.abs(found.in_scene().v_pos.numpy() - mesh.v_pos.numpy()).max() < 1e-6


def test_points_are_uniform_on_the_surface(tmp_path):
    mesh = read_mesh(write("box.ply", tmp_path / "in"))
    face, weights = mesh.random_points(20_000, seed=0)
    assert weights.min() >= 0 and np.allclose(weights.sum(1), 1)
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(*(corners[:, i] - corners[:, 0] for i in (1, 2))), axis=1)
    share = np.bincount(face, minlength=len(area)) / len(face)
    assert np.abs(share - area / area.sum()).max() < 0.01
    assert np.abs(weights.mean(0) - 1 / 3).max() < 0.01


def test_texture_coordinates_that_cannot_carry_a_new_texture():
    faces = np.array([[0, 1, 2], [3, 4, 5]])
    one = np.array([[0.1, 0.1], [0.4, 0.1], [0.1, 0.4]])
    assert unfit_uv(np.concatenate([one, one + 0.5]), faces) is None
    assert unfit_uv(np.concatenate([one, one]), faces) == "overlap"
    assert unfit_uv(np.concatenate([one, one[::-1]]), faces) == "overlap"  # mirrored
    assert "repeated" in unfit_uv(np.concatenate([one, one + 1]), faces)
    assert unfit_uv(np.zeros((6, 2)), faces) == "cover nothing"
    assert unfit_uv(np.concatenate([one, one * np.nan]), faces) is not None


def test_a_thinned_mesh_keeps_its_colours(tmp_path, monkeypatch):
    colored().export(tmp_path / "a.ply")
    mesh = read_mesh(tmp_path / "a.ply", decimate=300)
    assert 100 < len(mesh.faces) <= 300 and "1,280 faces became" in mesh.notes[-1]
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 30).max() < 6
    height, found = mesh.vertices[mesh.faces].mean(1)[:, 2], colors(mesh)
    assert (found[height > 12][:, 0] > 0.9).all() and (found[height < -12][:, 2] > 0.9).all()
    monkeypatch.setattr(reading, "MOST_FACES", 1000)
    with pytest.raises(UserError, match=r"has 1,280 faces, .*--decimate 100000"):
        read_mesh(tmp_path / "a.ply")
    with pytest.raises(UserError, match="at least 4 faces"):
        read_mesh(tmp_path / "a.ply", decimate=3)


def test_seen_from_four_sides(tmp_path):
    """A box of four colours: each side is seen from its own."""
    mesh = box((0, 0, 0), (2.0, 2.0, 2.0))
    sides = mesh.face_normals
    mesh.visual.face_colors = np.select(
        [sides[:, :1] > 0.5, sides[:, :1] < -0.5, sides[:, 1:2] > 0.5],
        [RED, GREEN, BLUE],
        (255,) * 4,
    ).astype(np.uint8)
    mesh.export(tmp_path / "a.ply")
    found = read_mesh(tmp_path / "a.ply", up="z")
    views = seen(found, found.in_ball(0.85), [0.0, 90.0, 180.0], 0.0, 2.5, 45.0, 32)
    middle = views.albedo[:, 16, 16]
    assert torch.allclose(middle, torch.tensor([RED, BLUE, GREEN])[:, :3] / 255.0, atol=1e-5)
    assert torch.allclose(views.normal[0, 16, 16], torch.tensor([1.0, 0, 0]), atol=0.1)
    assert 0.3 < views.mask.float().mean() < 0.6


def broken(kind, folder):
    """A file with something wrong, and what is said of it."""
    path = folder / f"a.{kind.split()[-1]}"
    if kind == "not there glb":
        return path, "There is no mesh"
    if kind == "another format stl":
        box().export(path)
        return path, "is no GLB, OBJ or PLY file"
    if kind == "points ply":
        trimesh.PointCloud(np.random.rand(9, 3)).export(path)
        return path, "has no faces"
    if kind == "empty obj":
        path.write_text("# nothing\n")
        return path, "has no faces|cannot be read"
    if kind == "text ply":
        path.write_text("not a mesh")
        return path, "cannot be read as a mesh"
    if kind == "cut glb":
        sphere().export(path)
        path.write_bytes(path.read_bytes()[:400])
        return path, "is damaged|cannot be read as a mesh"
    if kind == "not finite obj":
        path.write_text("v 0 0 0\nv 1 0 nan\nv 0 1 0\nf 1 2 3\n")
        return path, "1 of its vertices are not finite"
    if kind == "without area obj":
        path.write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
        return path, "has no size"
    if kind == "vertices missing obj":
        path.write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 9\n")
        return path, "cannot be read|damaged"
    write("textured box.obj", folder / "in")
    path = folder / "in/textured-box.obj"
    gone = next((folder / "in").glob("*.mtl" if kind.startswith("material") else "*.png"))
    gone.unlink()
    return path, f"names the file '{gone.name}', which is not beside it"


@pytest.mark.parametrize(
    "kind",
    [
        *("not there glb", "another format stl", "points ply", "empty obj", "text ply", "cut glb"),
        *("not finite obj", "without area obj", "vertices missing obj"),
        *("material missing obj", "texture missing obj"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(kind, tmp_path):
    path, message = broken(kind, tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        read_mesh(path)
    assert "\n" not in str(caught.value)


def test_compressed_and_outside_pictures_of_a_glb_are_told(tmp_path):
    for tree, message in (
        (b'{"extensionsRequired":["KHR_draco_mesh_compression"]}', "is compressed"),
        (b'{"images":[{"uri":"wood.png"}]}', "names the file 'wood.png'"),
        (b"{", "table of contents"),
    ):
        size = len(tree).to_bytes(4, "little")
        path = tmp_path / "a.glb"
        path.write_bytes(b"glTF" + bytes(8) + size + b"JSON" + tree)
        with pytest.raises(UserError, match=message):
            read_mesh(path)


def test_repeated_textures_get_new_coordinates(tmp_path):
    mesh = textured(box(), PBRMaterial(baseColorTexture=None))
    mesh.visual.uv = mesh.visual.uv * 3
    mesh.export(tmp_path / "a.glb")
    found = read_mesh(tmp_path / "a.glb")
    assert found.uv is None and "repeated texture" in found.notes[-1]
