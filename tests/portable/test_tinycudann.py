"""The stand-in for tinycudann against plain torch."""

import math

import pytest
import torch
from torch.autograd import grad

from threestudio_asd.errors import UserError
from threestudio_asd.kernels.hashgrid import hashgrid_reference
from threestudio_asd.portable import tinycudann as tcnn

GRID = {
    "otype": "HashGrid",
    "n_levels": 4,
    "n_features_per_level": 2,
    "log2_hashmap_size": 8,
    "base_resolution": 4,
    "per_level_scale": 1.6,
}


def encoding(**options):
    torch.manual_seed(0)
    made = tcnn.Encoding(3, {**GRID, **options}, dtype=torch.float32)
    torch.nn.init.normal_(made.params)
    return made


def orientation_loss(encode, points, head, views):
    """DreamFusion's (arXiv:2209.14988, section 3.2) on analytic normals, -grad(density)."""
    points = points.requires_grad_()
    density = torch.nn.functional.softplus(encode(points) @ head).sum()
    normals = -torch.nn.functional.normalize(grad(density, points, create_graph=True)[0], dim=-1)
    return (normals * views).sum(-1).clamp(min=0).square().mean()


def test_values_and_gradients():
    made = encoding()
    x = torch.rand(500, 3, requires_grad=True)
    y, reference = made(x), hashgrid_reference(x, made.params, made.spec)
    assert y.shape == (500, made.n_output_dims) == (500, 8)
    torch.testing.assert_close(y, reference, rtol=1e-4, atol=1e-4)
    g = torch.randn_like(y)
    for ours, theirs in zip(
        grad(y, (x, made.params), g), grad(reference, (x, made.params), g), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_orientation_loss_reaches_the_hash_table():
    made = encoding()
    x, head = torch.rand(400, 3), torch.randn(8)
    views = torch.nn.functional.normalize(torch.randn(400, 3), dim=-1)
    ours = orientation_loss(made, x, head, views)
    theirs = orientation_loss(
        lambda points: hashgrid_reference(points, made.params, made.spec), x, head, views
    )
    (g,), (reference,) = grad(ours, made.params), grad(theirs, made.params)
    assert reference.norm() > 0
    assert (g - reference).norm() < 1e-3 * reference.norm()


def test_table_is_tinycudanns():
    torch.manual_seed(0)
    first = tcnn.Encoding(3, GRID)
    torch.manual_seed(1)
    second = tcnn.Encoding(3, {**GRID, "start_level": 2, "include_xyz": False})
    assert list(first.state_dict()) == ["params"]
    assert torch.equal(first.params, second.params)
    assert not torch.equal(first.params, tcnn.Encoding(3, GRID, seed=1).params)
    assert 0.9e-4 < first.params.abs().max() <= 1e-4


def test_defaults_are_tinycudanns():
    made = tcnn.Encoding(3, {"otype": "Grid", "type": "Hash", "n_levels": 3})
    assert made.spec.per_level_scale == 2.0
    assert made.spec.log2_hashmap_size == 19
    assert made.n_output_dims == 6


def test_features_in_half_precision():
    made = tcnn.Encoding(3, GRID, dtype=torch.float16)
    assert made(torch.rand(2, 3)).dtype == torch.float16
    assert made.params.dtype == torch.float32


def test_spherical_harmonics_obey_the_addition_theorem():
    made = tcnn.Encoding(3, {"otype": "SphericalHarmonics", "degree": 3})
    directions = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1)
    a, b = (made((d.float() + 1) / 2) for d in (directions, directions.roll(1, 0)))
    cosine = (directions * directions.roll(1, 0)).sum(-1).float()
    legendre = (torch.ones(50), cosine, (3 * cosine**2 - 1) / 2)
    for degree, polynomial in enumerate(legendre):
        band = slice(degree**2, (degree + 1) ** 2)
        sums = (a * b)[:, band].sum(-1)
        expected = (2 * degree + 1) / (4 * math.pi) * polynomial
        torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"otype": "Frequency"},
        {"otype": "Grid", "type": "Tiled"},
        {**GRID, "interpolation": "Smoothstep"},
        {"otype": "SphericalHarmonics", "degree": 4},
    ],
)
def test_what_is_not_implemented_raises(config):
    with pytest.raises(UserError, match="install tinycudann itself"):
        tcnn.Encoding(3, config)


def test_networks_raise_on_use():
    with pytest.raises(UserError, match=r"tinycudann\.Network is called.*VanillaMLP"):
        tcnn.Network(3, 4, {})
