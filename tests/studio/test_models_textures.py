"""Texture coordinates and baking: exported files come back with the field's colours."""

import math
import sys

import numpy as np
import pytest
import torch
import trimesh
from balls import Ball, ball, exporter, from_trimesh, load

from threestudio_asd.errors import UserError
from threestudio_asd.scene import uv as mesh_uv
from threestudio_asd.scene.formats import Z_UP_TO_Y_UP
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.scene.uv import fill_map, texel_positions
from threestudio_asd.studio.systems.saving import SaverMixin


class Striped(Ball):
    """A ball whose colours change along all axes, a full wave of red over its height."""

    def export(self, points, **kwargs):
        return {"features": torch.stack(
            [3 * torch.sin(6 * points[..., 2]), 4 * points[..., 0], -3 * points[..., 1]], dim=-1
        )}  # fmt: skip

    def colour(self, points):
        return self.export(torch.as_tensor(points).float())["features"].sigmoid().numpy()


def striped(**cfg):
    return Striped({"isosurface_threshold": 50.0, "isosurface_resolution": 32, **cfg})


def unit_square(turned=False):
    """Two triangles over the left half of the map, at z = 1 + 2 u - v."""
    v_tex = torch.tensor([[0.0, 0], [0.5, 0], [0.5, 1], [0, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    v_pos = torch.cat([v_tex, 1 + 2 * v_tex[:, :1] - v_tex[:, 1:]], dim=-1)
    return v_tex, faces.flip(-1) if turned else faces, v_pos, faces.flip(-1) if turned else faces


@pytest.mark.parametrize("turned", [False, True])
def test_texels_lie_where_their_coordinates_say(turned, monkeypatch):
    monkeypatch.setattr("threestudio_asd.scene.uv.PAIRS", 100)
    texel, position = texel_positions(*unit_square(turned), size=16)
    expected = torch.tensor([[r * 16 + c for c in range(8)] for r in range(16)])
    assert torch.equal(texel, expected.view(-1))
    u, v = (texel % 16 + 0.5) / 16, (texel // 16 + 0.5) / 16
    torch.testing.assert_close(position, torch.stack([u, v, 1 + 2 * u - v], dim=-1))


def test_slivers_and_coordinates_off_the_map_are_survived():
    v_tex = torch.tensor(
        [[0.2, 0.2], [0.2, 0.2], [0.9, 0.9], [-1.0, 0.5], [3.0, 0.51], [0.5, -2.0]]
    )
    faces = torch.tensor([[0, 1, 2], [0, 0, 0], [3, 4, 5]])
    texel, position = texel_positions(v_tex, faces, torch.rand(6, 3), faces, size=8)
    assert len(texel) > 0 and texel.min() >= 0 and texel.max() < 64
    assert position.isfinite().all()


def test_texels_without_a_chart_take_the_nearest_colour():
    values = torch.tensor([[0.2], [0.9]])
    image = fill_map(torch.tensor([0, 4 * 5 + 4]), values, 5)
    assert image.shape == (5, 5, 1)
    assert image[0, 2] == image[2, 0] == image[1, 1] == values[0]
    assert image[4, 2] == image[3, 3] == values[1]


def saved(out, folder):
    saver = SaverMixin()
    saver.set_save_dir(folder)
    return getattr(saver, f"save_{out.save_type}")(out.save_name, **out.params)


def colours_at_points(mesh, count=4000):
    """Points on a loaded mesh, and what it shows there: texture or vertex colours, as stored."""
    points, face = trimesh.sample.sample_surface(mesh, count, seed=1)
    weights = trimesh.triangles.points_to_barycentric(mesh.triangles[face], points)
    corner = mesh.faces[face]
    visual = mesh.visual
    if visual.kind == "vertex":
        shown = visual.vertex_colors[corner] / 255
    elif visual.uv is None:
        shown = visual.vertex_attributes["color"][corner]
    else:
        uv = (weights[..., None] * visual.uv[corner]).sum(1)
        image = getattr(visual.material, "baseColorTexture", None) or visual.material.image
        texels = trimesh.visual.color.uv_to_interpolated_color(uv, image)
        return points, texels[:, :3] / 255
    return points, (weights[..., None] * shown).sum(1)[:, :3]


def to_linear(srgb):
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize(
    ("cfg", "file"),
    [
        ({}, "model.glb"),
        ({"save_uv": True, "texture_size": 256}, "model.glb"),
        ({"fmt": "obj-mtl", "texture_size": 256}, "model.obj"),
        ({"fmt": "obj-mtl", "texture_size": 256, "texture_format": "png"}, "model.obj"),
        ({"fmt": "obj"}, "model.obj"),
        ({"fmt": "ply"}, "model.ply"),
    ],
)
def test_files_come_back_with_the_colours_of_the_field(cfg, file, tmp_path):
    if cfg.get("save_uv") or cfg.get("fmt") == "obj-mtl":
        pytest.importorskip("xatlas")
    geometry = striped()
    (out,) = exporter(geometry, **cfg)()
    saved(out, tmp_path)
    mesh = load(tmp_path / file)
    points, shown = colours_at_points(mesh)
    if file == "model.glb":
        points = points @ Z_UP_TO_Y_UP[:3, :3]  # back to z up
    expected = geometry.colour(points)
    if file == "model.glb" and not cfg.get("save_uv"):
        expected = to_linear(expected)
    assert np.abs(shown - expected).mean() < 0.02
    assert np.quantile(np.abs(shown - expected), 0.999) < 0.1  # no seams
    assert np.linalg.norm(points, axis=1) == pytest.approx(0.5, abs=0.01)
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.02)


def test_a_textured_glb_has_smooth_normals_across_seams(tmp_path):
    pytest.importorskip("xatlas")
    (out,) = exporter(striped(), save_uv=True, texture_size=64)()
    saved(out, tmp_path)
    mesh = load(tmp_path / "model.glb")
    assert len(mesh.vertices) > len(out.params["mesh"].v_pos)  # cut at seams
    outward = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    assert (outward * mesh.vertex_normals).sum(1).min() > 0.98
    material = mesh.visual.material
    assert material.metallicFactor == 0 and material.baseColorTexture.size == (64, 64)


def test_texture_of_obj_is_named_and_described(tmp_path):
    pytest.importorskip("xatlas")
    (out,) = exporter(striped(), fmt="obj-mtl", texture_size=32, save_name="pot")()
    paths = saved(out, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pot.mtl", "pot.obj", "texture_kd.jpg"]
    assert len(paths) == 3
    assert "map_Kd texture_kd.jpg" in (tmp_path / "pot.mtl").read_text()
    for name in ("pot.obj", "pot.mtl"):
        assert (tmp_path / name).read_text().startswith("# z up, front +x")


def test_obj_with_colours_and_coordinates(tmp_path):
    pytest.importorskip("xatlas")
    (out,) = exporter(striped(), fmt="obj", save_uv=True, save_normal=True)()
    saved(out, tmp_path)
    lines = [line.split() for line in (tmp_path / "model.obj").read_text().splitlines()]
    rows = np.array([line[1:] for line in lines if line[0] == "v"], dtype=float)
    np.testing.assert_allclose(rows[:, 3:], striped().colour(rows[:, :3]), atol=1e-4)
    mesh = load(tmp_path / "model.obj")
    assert mesh.visual.uv.shape == (len(mesh.vertices), 2)
    assert {line[0] for line in lines} == {"#", "v", "vn", "vt", "f"}


def test_charts_and_options_of_xatlas():
    pytest.importorskip("xatlas")
    box = from_trimesh(trimesh.creation.box())
    box.unwrap_uv({}, {"resolution": 64})
    assert (box.v_tex >= 0).all() and (box.v_tex <= 1).all()
    assert box.t_tex_idx.shape == box.t_pos_idx.shape
    # No two triangles overlap on the map.
    a, b, c = box.v_tex[box.t_tex_idx].unbind(1)
    areas = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs() / 2
    texel, _ = texel_positions(box.v_tex, box.t_tex_idx, box.v_pos, box.t_pos_idx, 256)
    assert len(texel) / 256**2 == pytest.approx(areas.sum().item(), rel=0.02)
    with pytest.raises(UserError, match=r"xatlas_pack_options\.paddin: xatlas has the options"):
        box.unwrap_uv({}, {"paddin": 4})
    with pytest.raises(UserError, match=r"xatlas_chart_options\.max_cost"):
        box.unwrap_uv({"max_cost": "much"}, {})


def test_many_triangles_are_cut_apart(monkeypatch, caplog):
    pytest.importorskip("xatlas")
    box = from_trimesh(trimesh.creation.icosphere(subdivisions=2))
    box.unwrap_uv()
    again = Mesh(box.v_pos, box.t_pos_idx)
    monkeypatch.setattr(mesh_uv, "MANY", 0)
    monkeypatch.setattr(mesh_uv, "INTERVAL", 0.01)
    with caplog.at_level("INFO", logger="threestudio_asd"):
        again.unwrap_uv()
    assert torch.equal(again.v_tex, box.v_tex) and torch.equal(again.t_tex_idx, box.t_tex_idx)
    assert "Cutting 320 triangles" in caplog.text and "cutting charts: 0 s" in caplog.text
    monkeypatch.setattr(mesh_uv.xatlas_charts, "__file__", "/nowhere.py")
    with pytest.raises(UserError, match="xatlas failed"):
        Mesh(box.v_pos, box.t_pos_idx).unwrap_uv()


def test_without_xatlas_the_message_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "xatlas", None)
    with pytest.raises(UserError, match="pip install xatlas"):
        exporter(ball(), fmt="obj-mtl")()


def test_large_bakings_tell_their_progress(monkeypatch, caplog):
    from threestudio_asd.studio.models.exporter import baking

    monkeypatch.setattr(baking, "CHUNK", 1000)
    monkeypatch.setattr(baking, "INTERVAL", 0.0)
    with caplog.at_level("INFO", logger="threestudio_asd"):
        exporter(ball())()
    assert "sampling colours: 1000 of" in caplog.text
