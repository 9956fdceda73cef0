"""Regularisers in closed form, and what becomes of a guidance's output."""

import math

import pytest
import torch

from threestudio_asd.errors import UserError
from threestudio_asd.systems.guided import guidance_losses, log_weights
from threestudio_asd.systems.losses import (
    convexity_loss,
    eikonal_loss,
    opaque_loss,
    orientation_loss,
    sparsity_loss,
    z_variance_loss,
)


def test_sparsity_is_a_smoothed_absolute_value():
    opacity = torch.tensor([[0.0], [1.0]], requires_grad=True)
    loss = sparsity_loss(opacity)
    assert loss.item() == pytest.approx((0.1 + math.sqrt(1.01)) / 2)
    loss.backward()
    assert opacity.grad[0] == 0 and opacity.grad[1] > 0


@pytest.mark.parametrize(("p", "entropy"), [(0.5, math.log(2)), (0.0, 0.0079), (1.0, 0.0079)])
def test_opaque_is_the_binary_entropy(p, entropy):
    assert opaque_loss(torch.full((2, 3, 3, 1), p)).item() == pytest.approx(entropy, abs=1e-4)


def test_opaque_pushes_away_from_one_half():
    opacity = torch.tensor([[0.3], [0.7]], requires_grad=True)
    opaque_loss(opacity).backward()
    # d/dp -(p log p + (1 - p) log(1 - p)) = log((1 - p)/p), averaged over two rays
    torch.testing.assert_close(opacity.grad, ((1 - opacity) / opacity).log().detach() / 2)


def test_opaque_works_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert opaque_loss(torch.full((4, 1), 0.5)).item() == pytest.approx(math.log(2))


def test_orientation_counts_normals_that_face_away():
    weights = torch.tensor([[0.5], [0.25], [1.0]], requires_grad=True)
    t_dirs = torch.tensor([[0.0, 0.0, -1.0]] * 3)
    normal = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.6, -0.8], [0.0, 0.0, -1.0]], requires_grad=True)
    opacity = torch.tensor([[0.0], [0.5], [1.0]])
    loss = orientation_loss(weights, normal, t_dirs, opacity)
    assert loss.item() == pytest.approx((0.25 * 0.8**2 + 1.0) / 2)
    loss.backward()
    assert weights.grad is None and normal.grad[0].abs().max() == 0 < normal.grad[2].abs().max()


def test_z_variance_is_that_of_visible_rays():
    variance = torch.tensor([[1.0], [2.0], [4.0]])
    assert z_variance_loss(variance, torch.tensor([[0.2], [0.6], [0.9]])).item() == 3.0
    assert z_variance_loss(variance, torch.zeros(3, 1)).item() == 0.0


def test_eikonal_is_zero_for_unit_gradients():
    gradient = torch.tensor([[0.0, 0.6, 0.8], [3.0, 0.0, 0.0]], requires_grad=True)
    loss = eikonal_loss(gradient)
    assert loss.item() == pytest.approx((0.0 + 4.0) / 2)
    loss.backward()
    # d/dg (|g| - 1)^2 / 2 = (|g| - 1) g / |g|
    expected = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    torch.testing.assert_close(gradient.grad, expected, atol=1e-6, rtol=0)


def turning(dx, dy, size=16):
    """A picture of unit vectors that turn by ``dx`` a pixel to the right and ``dy`` downwards."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    angle = dx * x + dy * y
    return torch.stack([angle.cos(), angle.sin(), torch.zeros(size, size)], dim=-1)[None]


@pytest.mark.parametrize(("dx", "dy"), [(0.1, 0.0), (0.0, 0.2), (-0.1, 0.05)])
def test_convexity_is_by_how_much_neighbours_turn(dx, dy):
    """At the picture's own size: the sine of the angle from left to right, and from below up."""
    loss = convexity_loss(turning(dx, dy), 16).item()
    assert loss == pytest.approx(-(math.sin(dx) - math.sin(dy)), abs=1e-5)


def test_convexity_is_of_a_smaller_picture():
    """Halves: means of two pixels, which are shorter by cos(dx / 2) and two pixels apart."""
    dx = 0.1
    loss = convexity_loss(turning(dx, 0.0), 8).item()
    assert loss == pytest.approx(-math.sin(2 * dx) * math.cos(dx / 2) ** 2, abs=1e-5)
    assert convexity_loss(torch.ones(2, 32, 32, 3), 8).item() == 0.0


class FakeSystem:
    """What ``guidance_losses`` asks of a system."""

    class cfg:
        loss = {"lambda_asd": 2.0, "lambda_lora": [0, 0.0, 1.0, 10]}

    def __init__(self):
        self.logged = {}

    def C(self, value):
        return 0.5 if isinstance(value, list) else value

    def log(self, name, value):
        self.logged[name] = float(value)


def test_losses_are_weighted_and_scalars_logged():
    system = FakeSystem()
    out = {
        "loss_asd": torch.tensor(3.0),
        "loss_lora": torch.tensor(4.0),
        "grad_norm": torch.tensor([7.0]),
        "min_step": 20,
        "image": torch.zeros(2, 2),
        "eval": {"texts": []},
    }
    assert guidance_losses(system, out).item() == 2.0 * 3.0 + 0.5 * 4.0
    assert system.logged == {
        "train/loss_asd": 3.0,
        "train/loss_lora": 4.0,
        "train/grad_norm": 7.0,
        "train/min_step": 20.0,
    }
    log_weights(system)
    assert system.logged["train_params/lambda_lora"] == 0.5


def test_a_loss_without_weight_is_an_error():
    with pytest.raises(UserError, match=r"loss_vsd .* add system.loss.lambda_vsd=1.0"):
        guidance_losses(FakeSystem(), {"loss_vsd": torch.tensor(1.0)})
