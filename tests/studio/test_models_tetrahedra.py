"""tetrahedra-sdf-grid: starts, gradients, surfaces, and grids made from other geometries."""

import math

import pytest
import torch
import trimesh
from kit import NETWORKS

from threestudio_asd.errors import UserError
from threestudio_asd.scene.formats import to_trimesh
from threestudio_asd.studio import registry
from threestudio_asd.studio.models.geometry.base import BaseImplicitGeometry
from threestudio_asd.studio.models.geometry.implicit_volume import ImplicitVolume
from threestudio_asd.studio.models.geometry.tetrahedra_sdf_grid import TetrahedraSDFGrid


def grid(**cfg) -> TetrahedraSDFGrid:
    torch.manual_seed(0)
    return TetrahedraSDFGrid({"isosurface_resolution": 24, **NETWORKS, **cfg})


def sphere(radius=0.5, **cfg) -> TetrahedraSDFGrid:
    geometry = grid(shape_init="sphere", shape_init_params=radius, **cfg)
    geometry.initialize_shape()
    return geometry


def volume(**cfg) -> ImplicitVolume:
    """A blob of density 10 (1 - r / 0.5) before the activation."""
    torch.manual_seed(1)
    geometry = ImplicitVolume({**NETWORKS, **cfg})
    for parameter in geometry.density_network.parameters():
        torch.nn.init.zeros_(parameter)
    return geometry


def test_parameters_and_defaults_are_threestudios():
    geometry = grid()
    names = {name for name, _ in geometry.named_parameters()}
    assert {"sdf", "deformation"} < names
    assert set(geometry.state_dict()) - names == {"bbox", "isosurface_bbox"}
    assert geometry.sdf.shape == (len(geometry.grid_vertices), 1)
    fixed = grid(fix_geometry=True, isosurface_deformable_grid=False)
    assert not {"sdf", "deformation"} & {name for name, _ in fixed.named_parameters()}
    assert "sdf" in fixed.state_dict() and fixed.deformation is None
    assert "encoding" not in dict(grid(geometry_only=True).named_children())


def test_sphere_and_ellipsoid_have_their_size():
    assert (sphere(0.6).isosurface().v_pos.norm(dim=-1) - 0.6).abs().max() < 0.01
    geometry = grid(shape_init="ellipsoid", shape_init_params=[0.6, 0.3, 0.4], radius=2.0)
    geometry.initialize_shape()
    extent = geometry.isosurface().v_pos.abs().amax(0)
    torch.testing.assert_close(extent, torch.tensor([0.6, 0.3, 0.4]), atol=0.03, rtol=0)


def test_a_mesh_to_start_from_is_turned_and_scaled(tmp_path):
    # Lengths 1, 2, 4 along the file's x, y, z; its y is up and its z in front.
    box = trimesh.creation.box(extents=(1, 2, 4))
    box.apply_translation((5, 6, 7))
    box.export(tmp_path / "box.ply")
    geometry = grid(
        shape_init=f"mesh:{tmp_path / 'box.ply'}",
        shape_init_params=0.8,
        shape_init_mesh_up="+y",
        shape_init_mesh_front="+z",
        isosurface_resolution=64,
    )
    geometry.initialize_shape()
    mesh = geometry.isosurface()
    extent = mesh.v_pos.abs().amax(0)
    torch.testing.assert_close(extent, torch.tensor([0.8, 0.2, 0.4]), atol=0.02, rtol=0)
    assert to_trimesh(mesh).volume == pytest.approx(8 * 0.8 * 0.2 * 0.4, rel=0.03)


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"shape_init": "cube"}, "sphere, ellipsoid or mesh"),
        ({"force_shape_init": True}, "sphere, ellipsoid or mesh"),
        ({"shape_init": "sphere"}, "one positive number"),
        ({"shape_init": "sphere", "shape_init_params": -1.0}, "one positive number"),
        ({"shape_init": "ellipsoid", "shape_init_params": [1.0, 2.0]}, "3 positive numbers"),
        ({"shape_init": "mesh:nothing.obj", "shape_init_params": 1.0}, "does not exist"),
    ],
)
def test_bad_starts(cfg, words):
    with pytest.raises(UserError, match=words):
        grid(**cfg).initialize_shape()


def test_bad_mesh_to_start_from(tmp_path):
    trimesh.creation.box().export(tmp_path / "box.ply")
    (tmp_path / "broken.ply").write_bytes(b"ply")
    cfg = {"shape_init": f"mesh:{tmp_path}/box.ply", "shape_init_params": 1.0}
    with pytest.raises(UserError, match="two different axes"):
        grid(**cfg, shape_init_mesh_front="-z").initialize_shape()
    with pytest.raises(UserError, match="cannot be read"):
        grid(**{**cfg, "shape_init": f"mesh:{tmp_path}/broken.ply"}).initialize_shape()


def test_weights_win_over_the_start_unless_forced():
    geometry = sphere()
    geometry.cfg.weights = "x.ckpt:geometry"
    geometry.sdf.data.fill_(1.0)
    geometry.initialize_shape()
    assert (geometry.sdf == 1).all()
    geometry.cfg.force_shape_init = True
    geometry.initialize_shape()
    assert (geometry.sdf < 0).any()


def test_an_empty_surface_says_why():
    with pytest.raises(UserError, match="geometry_convert_from"):
        grid().isosurface()
    geometry = sphere()
    geometry.sdf.data.abs_().add_(0.1)
    with pytest.raises(UserError, match="vanished: all of its box is outside"):
        geometry.isosurface()


def test_deformation_moves_vertices_less_than_half_an_edge():
    geometry = sphere()
    before = geometry.isosurface().v_pos.detach()
    geometry.deformation.data[:, 2] = 100.0
    moved = geometry.isosurface().v_pos - before
    step = 2 / 24  # tanh(100) = 1 step of the grid, in a box of side 2
    torch.testing.assert_close(moved, torch.tensor([0, 0, step]).expand_as(moved))


def test_gradients_reach_every_part():
    geometry = sphere()
    mesh = geometry.isosurface()
    features = geometry(mesh.v_pos)["features"]
    (mesh.v_pos.square().sum() + features.sum()).backward()
    for name, parameter in geometry.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    # The volume grows where the distance falls.
    assert (geometry.sdf.grad <= 1e-6).all()


def test_small_components_go_only_without_gradients():
    geometry = sphere(isosurface_remove_outliers=True, isosurface_outlier_n_faces_threshold=0.1)
    points = 2 * geometry.grid_vertices - 1
    speck = (points - torch.tensor([0.85, 0.85, 0.85])).norm(dim=-1, keepdim=True) - 0.1
    geometry.sdf.data = torch.minimum(geometry.sdf.data, speck)
    assert geometry.isosurface().v_pos.max() > 0.7
    with torch.no_grad():
        assert geometry.isosurface().v_pos.max() < 0.6


def test_a_fixed_mesh_is_made_once_until_weights_come():
    geometry = sphere(fix_geometry=True)
    mesh = geometry.isosurface()
    assert geometry.isosurface() is mesh and not mesh.requires_grad
    geometry.load_state_dict(sphere(0.7, fix_geometry=True).state_dict())
    assert (geometry.isosurface().v_pos.norm(dim=-1) - 0.7).abs().max() < 0.02


def test_features_and_export():
    points = torch.rand(4, 5, 3) - 0.5
    geometry = grid(n_feature_dims=5)
    out = geometry(points)
    assert set(out) == {"features"} and out["features"].shape == (4, 5, 5)
    torch.testing.assert_close(geometry.export(points)["features"], out["features"])
    assert grid(geometry_only=True)(points) == grid(geometry_only=True).export(points) == {}
    with pytest.raises(UserError, match="nvdiff-rasterizer"):
        geometry(points, output_normal=True)


@pytest.mark.parametrize("threshold", [5.0, "auto"])
def test_a_volume_becomes_a_grid(threshold):
    source = volume(isosurface_threshold=threshold, isosurface_resolution=8)
    cfg = {"isosurface_resolution": 40, **NETWORKS}
    geometry = TetrahedraSDFGrid.create_from(source, cfg, copy_net=True)
    with torch.no_grad():
        radii = geometry.isosurface().v_pos.norm(dim=-1)
    if threshold == 5.0:  # softplus(10 (1 - r / 0.5)) = 5
        expected = 0.5 * (1 - math.log(math.expm1(5)) / 10)
        assert (radii - expected).abs().max() < 0.005
        # Sampled in the box of the surface and a tenth of its size on each side.
        box = geometry.isosurface_bbox
        torch.testing.assert_close(box[1] / expected, torch.full((3,), 1.2), atol=0.03, rtol=0)
    assert radii.max() - radii.min() < 0.03  # levels beyond -1 and 1 are clamped
    assert geometry.sdf.abs().max() <= 1
    points = torch.rand(50, 3) - 0.5
    torch.testing.assert_close(geometry(points)["features"], source(points)["features"])
    assert geometry.sdf.requires_grad
    assert source.cfg.isosurface_resolution == 8


def test_textures_are_left_behind_on_demand():
    source = volume(isosurface_threshold=5.0)
    points = torch.rand(50, 3) - 0.5
    geometry = TetrahedraSDFGrid.create_from(
        source, {"isosurface_resolution": 16, **NETWORKS}, copy_net=False
    )
    assert not torch.equal(geometry(points)["features"], source(points)["features"])
    TetrahedraSDFGrid.create_from(source, {"isosurface_resolution": 16, "geometry_only": True})


def test_a_grid_becomes_a_fixed_grid():
    source = sphere()
    source.isosurface_bbox *= 0.9
    source.deformation.data.normal_()
    cfg = {"isosurface_resolution": 24, "fix_geometry": True, **NETWORKS}
    geometry = TetrahedraSDFGrid.create_from(source, cfg)
    torch.testing.assert_close(geometry.isosurface().v_pos, source.isosurface().v_pos)
    points = torch.rand(50, 3) - 0.5
    torch.testing.assert_close(geometry(points)["features"], source(points)["features"])
    source.sdf.data += 1
    assert (geometry.sdf < 0).any()  # its own copy


@pytest.mark.parametrize(
    ("source", "cfg", "words"),
    [
        (lambda: BaseImplicitGeometry(), {}, "BaseImplicitGeometry"),
        (lambda: sphere(), {"isosurface_resolution": 16}, "isosurface_resolution is 16.*24"),
        (lambda: volume(isosurface_threshold=99.0), {}, "No surface at isosurface_threshold 99"),
        (lambda: volume(isosurface_threshold=5.0), {"radius": 2.0}, "geometry.radius is 2"),
        (lambda: volume(isosurface_threshold=5.0), {"n_feature_dims": 4}, "n_feature_dims"),
    ],
)
def test_bad_sources(source, cfg, words):
    with pytest.raises(UserError, match=words):
        TetrahedraSDFGrid.create_from(source(), {"isosurface_resolution": 24, **NETWORKS, **cfg})


def test_registered():
    assert registry.find("tetrahedra-sdf-grid") is TetrahedraSDFGrid
