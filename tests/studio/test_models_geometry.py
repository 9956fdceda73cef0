"""implicit-volume: densities in closed form, normals, gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from kit import ENCODING, MLP

from threestudio_asd.errors import UserError
from threestudio_asd.studio import registry
from threestudio_asd.studio.models.geometry.base import BaseImplicitGeometry
from threestudio_asd.studio.models.geometry.implicit_volume import NORMAL_TYPES, ImplicitVolume


def volume(**cfg) -> ImplicitVolume:
    torch.manual_seed(0)
    return ImplicitVolume({"pos_encoding_config": ENCODING, "mlp_network_config": MLP, **cfg})


def bias_only(**cfg) -> ImplicitVolume:
    """Without the network's share the density is the activated bias."""
    geometry = volume(**cfg)
    for parameter in geometry.density_network.parameters():
        torch.nn.init.zeros_(parameter)
    return geometry


@pytest.fixture
def points():
    return torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8


def test_defaults_are_threestudios():
    cfg = ImplicitVolume.Config()
    assert (cfg.radius, cfg.n_feature_dims, cfg.isosurface_threshold) == (1.0, 3, 25.0)
    assert (cfg.density_activation, cfg.density_bias) == ("softplus", "blob_magic3d")
    assert (cfg.density_blob_scale, cfg.density_blob_std) == (10.0, 0.5)
    assert cfg.pos_encoding_config["per_level_scale"] == pytest.approx(1.4473, abs=1e-4)
    assert cfg.normal_type == "finite_difference"


@pytest.mark.parametrize(
    ("bias", "raw"),
    [
        ("blob_magic3d", lambda r: 10 * (1 - r / 0.4)),
        ("blob_dreamfusion", lambda r: 10 * torch.exp(-(r**2) / (2 * 0.4**2))),
        (-1.5, lambda r: torch.full_like(r, -1.5)),
    ],
)
def test_density_bias(bias, raw, points):
    geometry = bias_only(density_bias=bias, density_blob_std=0.4)
    expected = F.softplus(raw(points.norm(dim=-1, keepdim=True)))
    torch.testing.assert_close(geometry.forward_density(points), expected)
    torch.testing.assert_close(geometry(points)["density"], expected)


def test_shapes_follow_the_points(points):
    geometry = volume(n_feature_dims=5)
    grid = points.view(4, 10, 3)
    out = geometry(grid, output_normal=True)
    assert out["density"].shape == (4, 10, 1)
    assert out["features"].shape == (4, 10, 5)
    assert out["normal"].shape == (4, 10, 3)
    assert torch.equal(out["normal"], out["shading_normal"])
    torch.testing.assert_close(out["features"].view(40, 5), geometry(points)["features"])
    torch.testing.assert_close(geometry.export(grid)["features"], out["features"])


def test_no_features(points):
    geometry = volume(n_feature_dims=0)
    assert set(geometry(points)) == {"density"}
    assert geometry.export(points) == {}


def test_radius_scales_the_encoded_cube(points):
    small, large = volume(radius=1.0), volume(radius=2.0)
    large.load_state_dict({**small.state_dict(), "bbox": large.bbox})
    torch.testing.assert_close(large(2 * points)["features"], small(points)["features"])


@pytest.mark.parametrize("normal_type", ["finite_difference", "finite_difference_laplacian"])
@pytest.mark.parametrize("bias", ["blob_magic3d", "blob_dreamfusion"])
def test_normals_of_a_blob_point_outwards(normal_type, bias, points):
    geometry = bias_only(normal_type=normal_type, density_bias=bias, density_activation="none")
    normal = geometry(points, output_normal=True)["normal"]
    assert (normal * F.normalize(points, dim=-1)).sum(-1).min() > 0.99
    torch.testing.assert_close(normal.norm(dim=-1), torch.ones(40))


def test_analytic_normals_of_a_blob_are_exact(points):
    geometry = bias_only(normal_type="analytic")
    normal = geometry(points, output_normal=True)["normal"]
    torch.testing.assert_close(normal, F.normalize(points, dim=-1))


def test_normal_types_agree_on_a_smooth_field(points):
    # Steps are small against the cells of the grid, so the field is nearly linear along them.
    normals = {}
    for normal_type in ("finite_difference", "finite_difference_laplacian", "analytic"):
        geometry = volume(normal_type=normal_type, finite_difference_normal_eps=1e-3)
        normals[normal_type] = geometry(points, output_normal=True)["normal"]
    reference = normals.pop("analytic")
    for normal in normals.values():
        assert (normal * reference).sum(-1).median() > 0.999


@pytest.mark.parametrize("normal_type", NORMAL_TYPES)
def test_a_loss_on_normals_reaches_the_hash_table(normal_type, points):
    geometry = volume(normal_type=normal_type)
    out = geometry(points, output_normal=True)
    (out["normal"] * torch.randn(3)).sum().backward()
    for parameter in geometry.encoding.parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
    assert points.grad is None and not points.requires_grad


def test_analytic_normals_without_gradients(points):
    geometry = volume(normal_type="analytic")
    with torch.no_grad():
        out = geometry(points, output_normal=True)
    assert not any(value.requires_grad for value in out.values())
    torch.testing.assert_close(out["normal"], geometry(points, output_normal=True)["normal"])


def test_level_is_negative_inside(points):
    geometry = bias_only()
    field, deformation = geometry.forward_field(points)
    assert deformation is None
    assert torch.equal(geometry.forward_level(field, 2.0) < 0, field > 2.0)


def test_isosurface_of_the_initial_blob():
    # softplus(10 (1 - r / 0.5)) = 5 at r = 0.5 (1 - ln(e^5 - 1) / 10)
    geometry = bias_only(
        isosurface_threshold=5.0, isosurface_resolution=32, isosurface_method="mc-cpu"
    )
    radius = 0.5 * (1 - math.log(math.expm1(5)) / 10)
    mesh = geometry.isosurface()
    assert (mesh.v_pos.norm(dim=-1) - radius).abs().max() < 0.005


def test_create_from_copies_the_field(points):
    other = volume(normal_type="pred")
    torch.manual_seed(99)
    cfg = {"pos_encoding_config": ENCODING, "mlp_network_config": MLP, "normal_type": "pred"}
    copy = ImplicitVolume.create_from(other, cfg)
    for key, value in other(points, output_normal=True).items():
        assert torch.equal(copy(points, output_normal=True)[key], value)
    partial = ImplicitVolume.create_from(other, cfg, copy_net=False)
    assert torch.equal(partial(points)["density"], other(points)["density"])
    assert not torch.equal(partial(points)["features"], other(points)["features"])
    with pytest.raises(UserError, match="BaseImplicitGeometry"):
        ImplicitVolume.create_from(BaseImplicitGeometry())


def test_progressive_levels_follow_the_training_step(points):
    encoding = {
        **ENCODING,
        "otype": "ProgressiveBandHashGrid",
        "start_level": 1,
        "start_step": 0,
        "update_steps": 10,
    }
    geometry = volume(pos_encoding_config=encoding)
    geometry.do_update_step(0, 25)
    assert geometry.encoding.encoding.current_level == 3


def test_optimizer_paths_exist():
    names = {name for name, _ in volume(normal_type="pred").named_children()}
    assert names >= {"encoding", "density_network", "feature_network", "normal_network"}


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"normal_type": "sobel"}, "finite_difference"),
        ({"density_bias": "blob"}, "blob_magic3d"),
        ({"density_activation": "softmin"}, "softplus"),
        ({"isosurface_deformable_grid": True}, "isosurface_deformable_grid"),
        ({"anneal_density_blob_std_config": {"end_val": 1}}, "anneal_density_blob_std_config"),
        ({"pos_encoding_config": {"otype": "Wavelet"}}, "HashGrid"),
    ],
)
def test_bad_input(cfg, words):
    with pytest.raises(UserError, match=words):
        volume(**cfg)


def test_normals_need_a_normal_type(points):
    with pytest.raises(UserError, match="normal_type is null"):
        volume(normal_type=None)(points, output_normal=True)


def test_registered():
    assert registry.find("implicit-volume") is ImplicitVolume
