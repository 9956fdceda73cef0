"""Encodings, networks and activations from configs."""

import math

import pytest
import torch
import torch.nn.functional as F
from kit import ENCODING

from threestudio_asd.errors import UserError
from threestudio_asd.studio.models.activations import ACTIVATIONS, get_activation
from threestudio_asd.studio.models.networks import VanillaMLP, get_encoding, get_mlp

PROGRESSIVE = {
    **ENCODING,
    "otype": "ProgressiveBandHashGrid",
    "start_level": 1,
    "start_step": 10,
    "update_steps": 5,
}


@pytest.fixture
def points():
    return torch.rand(50, 3, generator=torch.Generator().manual_seed(0))


def test_hash_grid(points):
    encoding = get_encoding(3, ENCODING)
    features = encoding(points)
    assert encoding.n_output_dims == 8 and features.shape == (50, 8)
    features.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoding.parameters())


def test_include_xyz_puts_the_scaled_points_first(points):
    encoding = get_encoding(3, {**ENCODING, "include_xyz": True})
    features = encoding(points)
    assert encoding.n_output_dims == 11
    torch.testing.assert_close(features[:, :3], 2 * points - 1)


def test_progressive_bands_open_with_the_step(points):
    encoding = get_encoding(3, PROGRESSIVE)
    with torch.no_grad():
        for parameter in encoding.parameters():
            parameter.fill_(1.0)  # every feature is then 1
    for step, levels in [(0, 1), (14, 1), (15, 2), (20, 3), (25, 4), (9999, 4), (0, 1)]:
        encoding.do_update_step(0, step)
        open_features = (encoding(points) != 0).all(dim=0)
        assert open_features.tolist() == [True] * 2 * levels + [False] * 2 * (4 - levels)


def test_spherical_harmonics_are_orthonormal():
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(200_000, 3, generator=generator), dim=-1)
    basis = get_encoding(3, {"otype": "SphericalHarmonics", "degree": 3})((directions + 1) / 2)
    gram = 4 * math.pi * basis.T @ basis / len(basis)
    torch.testing.assert_close(gram, torch.eye(9), atol=0.02, rtol=0)


def test_spherical_harmonics_order_and_signs():
    encoding = get_encoding(3, {"otype": "SphericalHarmonics", "degree": 2})
    axes = (torch.eye(3) + 1) / 2
    s = math.sqrt(3 / (4 * math.pi))
    expected = torch.tensor([[0, 0, -s], [-s, 0, 0], [0, s, 0]])  # bands -y, z, -x
    torch.testing.assert_close(encoding(axes)[:, 1:], expected)


def test_mlp_is_bias_free_relu():
    mlp = get_mlp(8, 3, {"otype": "VanillaMLP", "n_neurons": 16, "n_hidden_layers": 2})
    assert [tuple(p.shape) for p in mlp.parameters()] == [(16, 8), (16, 16), (3, 16)]
    w = list(mlp.parameters())
    x = torch.randn(5, 8)
    torch.testing.assert_close(mlp(x), torch.relu(torch.relu(x @ w[0].T) @ w[1].T) @ w[2].T)


def test_mlp_stays_in_float32_under_autocast():
    mlp = get_mlp(4, 2, {"otype": "VanillaMLP", "n_neurons": 8, "n_hidden_layers": 1})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mlp(torch.randn(3, 4)).dtype == torch.float32


def test_fully_fused_is_the_same_network():
    config = {"otype": "FullyFusedMLP", "activation": "ReLU", "output_activation": "None"}
    assert isinstance(get_mlp(4, 2, {**config, "n_neurons": 8, "n_hidden_layers": 1}), VanillaMLP)


def test_output_activation():
    mlp = get_mlp(4, 2, {"otype": "VanillaMLP", "output_activation": "sigmoid"})
    x = torch.randn(3, 4)
    torch.testing.assert_close(mlp(x), torch.sigmoid(mlp.layers(x)))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_have_finite_gradients(name):
    x = torch.linspace(-3, 3, 13, requires_grad=True)
    get_activation(name.upper())(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_activation_values():
    x = torch.tensor([-1.0, 0.0, 2.0])
    assert torch.equal(get_activation(None)(x), x)
    torch.testing.assert_close(get_activation("trunc_exp")(x), x.exp())
    torch.testing.assert_close(get_activation("shifted_softplus")(x), F.softplus(x - 1))
    torch.testing.assert_close(get_activation("scale_-11_01")(x), (x + 1) / 2)
    srgb = get_activation("lin2srgb")(torch.tensor([0.0, 0.001, 0.2140, 1.0]))
    torch.testing.assert_close(srgb, torch.tensor([0.0, 0.01292, 0.5, 1.0]), atol=1e-4, rtol=0)


def test_truncated_exp_bounds_its_gradient():
    x = torch.tensor([20.0], requires_grad=True)
    get_activation("trunc_exp")(x).backward()
    assert x.grad.item() == pytest.approx(math.exp(15), rel=1e-5)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"otype": "Frequency"}, "HashGrid"),
        ({**ENCODING, "n_level": 4}, "n_level"),
        ({**ENCODING, "interpolation": "Smoothstep"}, "Linear"),
        ({**PROGRESSIVE, "update_steps": 0}, "update_steps"),
        ({"otype": "SphericalHarmonics", "degree": 7}, "degree"),
    ],
)
def test_bad_encoding(config, words):
    with pytest.raises(UserError, match=words):
        get_encoding(3, config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"otype": "SphereInitVanillaMLP"}, "VanillaMLP"),
        ({"otype": "VanillaMLP", "activation": "Sine"}, "ReLU"),
        ({"otype": "VanillaMLP", "output_activation": "wave"}, "sigmoid"),
        ({"otype": "VanillaMLP", "n_hidden_layers": 0}, "n_hidden_layers"),
    ],
)
def test_bad_network(config, words):
    with pytest.raises(UserError, match=words):
        get_mlp(3, 1, config)
