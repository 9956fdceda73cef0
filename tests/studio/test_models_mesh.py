"""Marching cubes, meshes and their files."""

import math

import numpy as np
import pytest
import torch
import trimesh
from balls import BBOX, Ball, ball, exporter, load

from threestudio_asd.errors import UserError
from threestudio_asd.scene.formats import to_trimesh, write_mesh
from threestudio_asd.scene.isosurface import grid_points, marching_cubes
from threestudio_asd.scene.mesh import Mesh


def coloured_box() -> Mesh:
    box = trimesh.creation.box(extents=(1, 2, 3))
    mesh = Mesh(torch.tensor(box.vertices).float(), torch.tensor(box.faces))
    mesh.set_vertex_color(torch.linspace(0, 1, 3 * len(mesh.v_pos)).view(-1, 3))
    return mesh


def test_marching_cubes_finds_the_sphere_and_faces_outwards():
    bbox = torch.tensor([[-1.0, -2.0, -1.0], [3.0, 1.0, 2.0]])
    points = grid_points(bbox, 40)
    field = 0.7 - (points - torch.tensor([0.5, -0.5, 0.5])).norm(dim=-1)
    mesh = marching_cubes(field.view(40, 40, 40), 0.0, bbox)
    outward = mesh.v_pos - torch.tensor([0.5, -0.5, 0.5])
    assert (outward.norm(dim=-1) - 0.7).abs().max() < 0.01
    assert to_trimesh(mesh).volume == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=0.02)
    assert (torch.nn.functional.normalize(outward, dim=-1) * mesh.v_nrm).sum(-1).min() > 0.98


@pytest.mark.parametrize("coarse_to_fine", [False, True])
def test_isosurface_of_a_ball_has_its_radius(coarse_to_fine):
    mesh = ball(isosurface_coarse_to_fine=coarse_to_fine, isosurface_resolution=32).isosurface()
    radii = mesh.v_pos.norm(dim=-1)
    assert (radii - 0.5).abs().max() < (0.002 if coarse_to_fine else 0.01)
    assert mesh.extras["bbox"][1].max().item() == pytest.approx(
        0.6 if coarse_to_fine else 1.0, abs=0.01
    )


def test_mt_falls_to_marching_cubes_and_says_so(caplog):
    with caplog.at_level("INFO", logger="threestudio_asd"):
        ball(isosurface_method="mt").isosurface()
    assert "marching cubes" in caplog.text


def test_chunks_change_nothing():
    whole, chunked = ball().isosurface(), ball(isosurface_chunk=1000).isosurface()
    assert torch.equal(whole.v_pos, chunked.v_pos)


def test_automatic_threshold_is_the_mean_of_the_filled_part():
    geometry = ball(isosurface_threshold="auto")
    field = geometry.forward_field(grid_points(BBOX, 48))[0]
    assert geometry._threshold(field) == pytest.approx(field[field > 1e-5].mean().item())
    assert (geometry.isosurface().v_pos.norm(dim=-1) - 0.5).abs().max() < 0.1


@pytest.mark.parametrize("threshold", [1000.0, -3.0])
def test_no_surface_is_explained(threshold):
    with pytest.raises(UserError, match=r"isosurface_threshold.*between [^ ]+ and 100.*auto"):
        ball(isosurface_threshold=threshold).isosurface()


def test_empty_scene_is_explained_in_auto_mode():
    geometry = ball(isosurface_threshold="auto")
    geometry.radii = ()
    geometry.forward_field = lambda points: (torch.zeros_like(points[..., :1]), None)
    with pytest.raises(UserError, match="between 0 and 0"):
        geometry.isosurface()


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"isosurface_method": "dmt"}, "mc-cpu"),
        ({"isosurface_resolution": 1}, "isosurface_resolution"),
        ({"radius": -1.0}, "positive"),
    ],
)
def test_bad_geometry_config(cfg, words):
    with pytest.raises(UserError, match=words):
        ball(**cfg)


def test_isosurface_can_be_off():
    with pytest.raises(UserError, match=r"geometry\.isosurface"):
        ball(isosurface=False).isosurface()


def test_outliers_are_removed():
    class Two(Ball):
        radii = ((0.4, (-0.4, 0.0, 0.0)), (0.08, (0.8, 0.0, 0.0)))

    cfg = {"isosurface_threshold": 50.0, "isosurface_resolution": 48}
    kept = Two({**cfg, "isosurface_outlier_n_faces_threshold": 0.1}).isosurface()
    assert kept.v_pos[:, 0].max() < 0.1
    both = Two({**cfg, "isosurface_remove_outliers": False}).isosurface()
    assert both.v_pos[:, 0].max() > 0.8
    assert (kept.t_pos_idx.max() + 1).item() == len(kept.v_pos)


def test_outlier_threshold_counts_faces_or_a_fraction():
    tetrahedron = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    triangle = torch.tensor([[4, 5, 6]])
    mesh = Mesh(torch.rand(7, 3), torch.cat([tetrahedron, triangle]), origin="test")
    mesh.set_vertex_color(torch.rand(7, 3))
    for threshold, faces in [(1, 5), (2, 4), (0.25, 5), (0.5, 4)]:
        cleaned = mesh.remove_outlier(threshold)
        assert len(cleaned.t_pos_idx) == faces
        assert torch.equal(cleaned.v_rgb, mesh.v_rgb[: len(cleaned.v_pos)])
        assert cleaned.extras == {"origin": "test"}
    mesh.v_pos.requires_grad_()
    assert mesh.remove_outlier(2) is mesh


def test_vertex_normals_are_weighted_by_area_and_defined_everywhere():
    v = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 9]])
    mesh = Mesh(v, torch.tensor([[0, 2, 1]]))
    torch.testing.assert_close(mesh.v_nrm[:3], torch.tensor([[0.0, 0.0, -1.0]]).expand(3, 3))
    torch.testing.assert_close(mesh.v_nrm[3], torch.tensor([0.0, 0.0, 1.0]))


@pytest.mark.parametrize("fmt", ["ply", "obj"])
def test_ply_and_obj_keep_axes_and_colours(fmt, tmp_path):
    mesh = coloured_box()
    write_mesh(tmp_path / f"box.{fmt}", mesh)
    loaded = load(tmp_path / f"box.{fmt}")
    np.testing.assert_allclose(loaded.extents, (1, 2, 3), atol=1e-6)
    np.testing.assert_allclose(loaded.vertices, mesh.v_pos, atol=1e-6)
    colours = loaded.visual.vertex_colors[:, :3] / 255
    np.testing.assert_allclose(colours, mesh.v_rgb, atol=1 / 255)
    assert loaded.volume == pytest.approx(6)
    assert b"z up, front +x" in (tmp_path / f"box.{fmt}").read_bytes()[:200]


def test_glb_is_y_up_in_metres_with_linear_colours(tmp_path):
    mesh = coloured_box()
    mesh.v_pos = mesh.v_pos + torch.tensor([10.0, 20.0, 30.0])
    write_mesh(tmp_path / "box.glb", mesh)
    loaded = load(tmp_path / "box.glb")
    np.testing.assert_allclose(loaded.extents, (2, 3, 1), atol=1e-6)
    np.testing.assert_allclose(loaded.bounds.mean(axis=0), (20, 30, 10), atol=1e-5)
    assert loaded.volume == pytest.approx(6, rel=1e-5)
    srgb = mesh.v_rgb.double().numpy()
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    colours = loaded.visual.vertex_attributes["color"]
    np.testing.assert_allclose(colours[:, :3], linear, atol=1e-6)
    assert loaded.visual.material.metallicFactor == 0


@pytest.mark.parametrize("fmt", ["ply", "obj", "glb"])
def test_meshes_without_colours_and_with_normals(fmt, tmp_path):
    mesh = coloured_box()
    write_mesh(tmp_path / f"a.{fmt}", Mesh(mesh.v_pos, mesh.t_pos_idx), save_normal=True)
    loaded = load(tmp_path / f"a.{fmt}")
    assert len(loaded.faces) == 12 and loaded.visual.kind != "vertex"
    with_normals = (tmp_path / f"a.{fmt}").stat().st_size
    write_mesh(tmp_path / f"b.{fmt}", Mesh(mesh.v_pos, mesh.t_pos_idx))
    assert (tmp_path / f"b.{fmt}").stat().st_size < with_normals


def test_unknown_suffix(tmp_path):
    with pytest.raises(UserError, match="glb"):
        write_mesh(tmp_path / "a.fbx", coloured_box())
    with pytest.raises(UserError, match="use glb"):
        write_mesh(tmp_path / "a.ply", coloured_box(), texture=torch.zeros(2, 2, 3))


def test_exporter_colours_the_isosurface():
    (out,) = exporter(ball())()
    assert (out.save_name, out.save_type) == ("model.glb", "mesh")
    mesh = out.params["mesh"]
    expected = torch.cat(
        [
            torch.full((len(mesh.v_pos), 1), 3.0).sigmoid(),
            torch.full((len(mesh.v_pos), 1), 0.5),
            mesh.v_pos[:, 2:].sigmoid(),
        ],
        dim=-1,
    )
    torch.testing.assert_close(mesh.v_rgb, expected)
    assert not mesh.v_rgb.requires_grad


def test_exporter_options():
    (out,) = exporter(ball(), fmt="ply", save_name="pot", save_texture=False, save_normal=True)()
    assert out.save_name == "pot.ply"
    assert out.params["mesh"].v_rgb is None and out.params["save_normal"]


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"fmt": "fbx"}, r"glb\|obj-mtl\|obj\|ply"),
        ({"fmt": "obj-mtl", "save_uv": False}, "without coordinates"),
        ({"save_uv": True, "save_texture": False}, "texture of a GLB"),
        ({"fmt": "ply", "save_uv": True}, "save_uv=false"),
        ({"texture_size": 0}, "texture_size"),
        ({"texture_format": "bmp"}, "jpg or png"),
    ],
)
def test_exporter_refuses_what_does_not_go_together(cfg, words):
    with pytest.raises(UserError, match=words):
        exporter(ball(), **cfg)


def test_dummy_exporter_writes_nothing():
    assert exporter(ball(), name="dummy-exporter")() == []
