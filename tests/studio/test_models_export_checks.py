"""Meshes that are refused or told of before they are exported: empty, exploded, foam, holes."""

import pytest
import torch
import trimesh
from balls import BBOX, Ball, ball, exporter, from_trimesh

from threestudio_asd.errors import UserError
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.studio.models.exporter.check import check_mesh
from threestudio_asd.studio.models.geometry.tetrahedra_sdf_grid import TetrahedraSDFGrid


def test_an_empty_mesh_is_refused():
    with pytest.raises(UserError, match="empty"):
        check_mesh(Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long)), BBOX)
    with pytest.raises(UserError, match="geometry_convert_from"):
        exporter(TetrahedraSDFGrid({"isosurface_resolution": 8}))()


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "1 of 8 vertices are not finite"), (50.0, "reaches 50")]
)
def test_an_exploded_mesh_is_refused(value, words):
    mesh = from_trimesh(trimesh.creation.box())
    mesh.v_pos[3, 1] = value
    with pytest.raises(UserError, match=f"exploded.*{words}"):
        check_mesh(mesh, BBOX)


def test_foam_is_refused():
    class Noise(Ball):
        def forward_field(self, points):
            generator = torch.Generator().manual_seed(0)
            return 100 * torch.rand(len(points), 1, generator=generator), None

    with pytest.raises(UserError, match=r"foam.*isosurface_threshold"):
        exporter(Noise({"isosurface_threshold": 50.0, "isosurface_resolution": 64}))()


def test_holes_are_told(caplog):
    with caplog.at_level("WARNING", logger="threestudio_asd"):
        exporter(ball())()
        assert "holes" not in caplog.text

        class Cut(Ball):
            radii = ((0.5, (0.0, 0.0, -0.8)),)

        exporter(Cut({"isosurface_threshold": 50.0, "isosurface_resolution": 32}))()
    assert "cuts it off at z = -1." in caplog.text


def test_a_grid_is_exported_without_its_specks():
    cfg = {"isosurface_resolution": 24, "shape_init": "sphere", "shape_init_params": 0.5}
    geometry = TetrahedraSDFGrid({**cfg, "isosurface_remove_outliers": True})
    geometry.initialize_shape()
    points = 2 * geometry.grid_vertices - 1
    speck = (points - torch.tensor([0.85, 0.85, 0.85])).norm(dim=-1, keepdim=True) - 0.06
    geometry.sdf.data = torch.minimum(geometry.sdf.data, speck)
    geometry.cfg.isosurface_outlier_n_faces_threshold = 0.1
    with torch.no_grad():
        (out,) = exporter(geometry)()
    assert out.params["mesh"].v_pos.max() < 0.6
