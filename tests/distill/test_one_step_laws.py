"""Laws of the one-step losses, on Gaussians where the fake network is optimal.

x = m + s z, and the teacher's distribution is another Gaussian: every x_0 is affine in x_t, so a
quadrature with three nodes in z and in the noise takes exact expectations.
"""

import numpy as np
import pytest
import torch

from threestudio_asd.distill.gradient import distillation_gradient
from threestudio_asd.distill.one_step import (
    DISTANCE_WEIGHTS,
    FAKE_WEIGHTS,
    add_distance,
    denoising,
    dmd_gradient,
    inverse_error_weight,
    noise_free_x0,
    noise_level,
    sid,
)
from threestudio_asd.distill.prediction_types import converted, stated, to_x0
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.distill.weighting import weight
from threestudio_asd.teachers.analytic import gaussian_epsilon

SCHEDULE = DiscreteSchedule.scaled_linear()
NODES, WEIGHTS = (torch.tensor(x) for x in np.polynomial.hermite_e.hermegauss(3))
WEIGHTS = WEIGHTS / WEIGHTS.sum()
Z, N = (x.reshape(-1, 1, 1, 1) for x in torch.meshgrid(NODES, NODES, indexing="ij"))
SHARES = torch.outer(WEIGHTS, WEIGHTS).flatten()
#: Mean and deviation of the generator, then of the teacher; t.
SETTINGS = [
    (0.3, 0.8, 0.0, 1.0, 500),
    (-1.0, 0.2, 0.5, 0.5, 100),
    (0.0, 1.5, 0.0, 0.7, 900),
    (2.0, 0.0, -1.0, 0.3, 300),
]


def x0(x_t, t, mean, variance):
    """E[x_0 | x_t] of a Gaussian."""
    moments = (torch.as_tensor(value, dtype=x_t.dtype) for value in (mean, variance))
    shaped = (value.expand(1, 1, 1, 1) for value in moments)
    epsilon = gaussian_epsilon(SCHEDULE, x_t, t, *shaped)
    return to_x0(SCHEDULE, epsilon, x_t, t, "epsilon")


class Case:
    """The generator's Gaussian with its optimal fake network, exact under the quadrature."""

    def __init__(self, mean, std, mean_real, std_real, t):
        self.theta = torch.tensor([mean, std], dtype=torch.float64, requires_grad=True)
        self.t = torch.full((len(Z),), t)
        self.x = self.theta[0] + self.theta[1] * Z
        self.x_t = SCHEDULE.add_noise(self.x, N, self.t)
        self.f_real = x0(self.x_t, self.t, mean_real, std_real**2)

    def fake(self, follows):
        """The optimal network of this generator; with ``follows`` of each other, too."""
        mean, std = self.theta if follows else self.theta.detach()
        return x0(self.x_t, self.t, mean, std**2)

    def fisher(self):
        """F = E|f_r - f_f|^2 with the network that is optimal for each theta."""
        return (SHARES * (self.f_real - self.fake(True)).square().sum(dim=(1, 2, 3))).sum()

    def loss(self, alpha):
        return (SHARES * sid(self.x, self.f_real, self.fake(False), alpha)).sum()

    def gradient(self, value):
        return torch.autograd.grad(value, self.theta, retain_graph=True)[0]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.2])
def test_the_expected_loss_says_nothing_of_progress(setting, alpha):
    case = Case(*setting)
    torch.testing.assert_close(case.loss(alpha), (1 - alpha) * case.fisher(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("setting", SETTINGS)
def test_at_one_half_the_gradient_is_half_that_of_the_divergence(setting):
    case = Case(*setting)
    half = case.gradient(case.loss(0.5))
    torch.testing.assert_close(half, case.gradient(case.fisher()) / 2, atol=1e-6, rtol=1e-6)
    assert half.abs().max() > 1e-3
    other = case.gradient(case.loss(1.0))
    assert (other - half).abs().max() > 1e-3 * half.abs().max()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_at_the_teacher_nothing_moves(alpha):
    case = Case(0.4, 0.7, 0.4, 0.7, 500)
    assert case.gradient(case.loss(alpha)).abs().max() < 1e-6
    assert dmd_gradient(case.x, case.f_real, case.fake(False)).abs().max() < 1e-5


def test_alpha_one_is_the_form_of_the_official_guided_code():
    x, f_real, f_fake = torch.randn(3, 2, 4, 5, 5)
    plain = ((f_real - f_fake) * (f_fake - x)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(sid(x, f_real, f_fake, 1.0), plain, atol=1e-4, rtol=1e-5)


def test_dmd_is_vsd_up_to_its_weight():
    x, noise, e_real, e_fake = torch.randn(4, 3, 4, 5, 5)
    t = torch.tensor([30, 500, 970])
    x_t = SCHEDULE.add_noise(x, noise, t)
    f_real, f_fake = (to_x0(SCHEDULE, e, x_t, t, "epsilon") for e in (e_real, e_fake))
    vsd = distillation_gradient(e_real, e_fake, weight("asd", SCHEDULE, t, x))
    weights = inverse_error_weight(x, f_real).view(-1, 1, 1, 1)
    torch.testing.assert_close(dmd_gradient(x, f_real, f_fake), weights * vsd, atol=1e-4, rtol=1e-4)


def test_the_weight_has_a_floor_and_no_gradient():
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    weights = inverse_error_weight(x, torch.stack([x[0].detach(), x[1].detach() + 2.0]))
    torch.testing.assert_close(weights, torch.tensor([1e5, 0.5]))
    assert not weights.requires_grad


@pytest.mark.parametrize("t", [20, 500, 979])
def test_adds_weight_makes_it_sds(t):
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    noise, e_real = torch.randn(2, *x.shape, dtype=torch.float64)
    t = torch.full((2,), t)
    x_t = SCHEDULE.add_noise(x, noise, t).detach()
    alpha, sigma = SCHEDULE.alpha(t, x), SCHEDULE.sigma(t, x)
    f_real = to_x0(SCHEDULE, e_real, x_t, t, "epsilon")
    c = DISTANCE_WEIGHTS.get("sds")(alpha, sigma)
    (gradient,) = torch.autograd.grad(add_distance(x, f_real, c).sum(), x)
    sds = distillation_gradient(e_real, noise, weight("sds", SCHEDULE, t, x))
    torch.testing.assert_close(gradient, sds, atol=1e-12, rtol=1e-6)
    assert torch.equal(DISTANCE_WEIGHTS.get("exponential")(alpha, sigma), alpha)
    level = noise_level(SCHEDULE, t, x)
    torch.testing.assert_close(
        noise_free_x0(x, e_real - noise, level), f_real, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_weight_makes_the_loss_that_of_a_prediction(kind):
    x, noise, said = torch.randn(3, 3, 4, 5, 5, dtype=torch.float64)
    t = torch.tensor([20, 500, 979])
    x_t = SCHEDULE.add_noise(x, noise, t)
    f_fake = converted(SCHEDULE, said, x_t, t, kind, "sample")
    level = noise_level(SCHEDULE, t, x).flatten()
    target = stated(SCHEDULE, x, noise, t, kind)
    plain = (said - target).square().sum(dim=(1, 2, 3))
    weighted = FAKE_WEIGHTS.get(kind)(level, 0.5) * denoising(f_fake, x)
    torch.testing.assert_close(weighted, plain, rtol=1e-5, atol=0)


def test_edms_weight_is_that_of_v_for_data_of_unit_spread():
    level = torch.linspace(0.1, 10.0, 7)
    edm, v = FAKE_WEIGHTS.get("edm"), FAKE_WEIGHTS.get("v_prediction")
    torch.testing.assert_close(edm(level, 1.0), v(level, 1.0))
    by_paper = (level**2 + 0.5**2) / (0.5 * level) ** 2
    torch.testing.assert_close(edm(level, 0.5), by_paper)


def test_where_generators_begin_is_the_noise_of_sid():
    level = noise_level(SCHEDULE, torch.tensor([625]), torch.zeros(1))
    assert level.item() == pytest.approx(2.5017, abs=5e-5)
