"""Distillation with a fixed field follows the teacher's probability flow, step by step."""

from itertools import pairwise

import pytest
import torch

from threestudio_asd.distill import FSD_2D, DiscreteSchedule, Method, Views
from threestudio_asd.fields import NoiseFields
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.step import DistillationStep
from threestudio_asd.teachers.analytic import GaussianMixtureTeacher

SHAPE, B = (3, 6, 6), 2
SCHEDULE = DiscreteSchedule(DiscreteSchedule.scaled_linear().alphas_cumprod.double())
VIEWS = Views(*torch.rand(3, B))
SCALE = 2.0


@pytest.fixture
def teacher():
    means = torch.randn(2, *SHAPE, dtype=torch.float64)
    return GaussianMixtureTeacher({"x": (means[0], 0.4), "y": (means[1], 0.6)}, SCHEDULE)


@pytest.fixture
def text(teacher):
    cond, null = (teacher.embed_text([word] * B) for word in ("y", ""))
    return Conditions({"cond": cond, "null": null}, critic=cond)


def at(t, like):
    t = torch.full((B,), t)
    alpha, sigma = SCHEDULE.alpha(t, like), SCHEDULE.sigma(t, like)
    return t, alpha, sigma, sigma / alpha


def guided(teacher, text, x_t, t):
    """G, written out."""
    null, cond = (teacher.epsilon(x_t, t, text[name]) for name in ("null", "cond"))
    return null + SCALE * (cond - null)


def ddim(teacher, text, x_t, t, then):
    """Song et al.'s eq. 12 without noise: x_0 as predicted, at the next level."""
    times, alpha, sigma, _ = at(t, x_t)
    _, next_alpha, next_sigma, _ = at(then, x_t)
    e = guided(teacher, text, x_t, times)
    return next_alpha * (x_t - sigma * e) / alpha + next_sigma * e


@pytest.mark.parametrize("count", [7, 40])
def test_steps_on_x_are_ddim_on_x_and_its_noise(teacher, text, count):
    """x <- x + (lambda' - lambda)(G - n), as SGD on the row's own loss, w = sigma / alpha.

    The loss's gradient in x is w (G - n) / B; a rate of B (lambda - lambda') / lambda makes the
    step of it. Checked after every step, from pure noise to t = 20.
    """
    times = torch.linspace(980, 20, count).round().long().tolist()
    fields = NoiseFields([FSD_2D], SHAPE, "cpu")
    step = DistillationStep(FSD_2D, teacher, weighting="asd", field=fields.of(FSD_2D))
    n = fields.of(FSD_2D).background.double()
    x = torch.zeros(B, *SHAPE, dtype=torch.float64, requires_grad=True)
    x_t = at(times[0], n)[1] * (x.detach() + at(times[0], n)[3] * n)
    for t, then in pairwise(times):
        where, _, _, level = at(t, n)
        noisy = step.noisy(x, where, VIEWS, text)
        torch.testing.assert_close(noisy.x_t, x_t, rtol=1e-9, atol=1e-9)
        (grad,) = torch.autograd.grad(step.evaluate(x, text, noisy, SCALE).loss, x)
        rate = B * (level - at(then, n)[3]) / level
        x = (x - rate * grad).detach().requires_grad_()
        x_t = ddim(teacher, text, x_t, t, then)
        _, alpha, _, level = at(then, n)
        torch.testing.assert_close(x + level * n, x_t / alpha, rtol=1e-9, atol=1e-9)


def test_fresh_noise_is_no_flow(teacher, text):
    """The same steps of SDS leave the trajectory at once: the test above can fail."""
    sds = Method("sds", "guided", "noise", None, paper="none")
    step = DistillationStep(sds, teacher, weighting="asd")
    x0, (t, alpha, _, level) = torch.zeros(B, *SHAPE).double(), at(900, torch.zeros(1).double())
    first, second = (step.noisy(x0, t, VIEWS, text).x_t for _ in range(2))
    assert (first - second).abs().max() > 0.1 * (alpha * level).max()


def test_a_gaussians_flow_ends_where_its_closed_form_does():
    """For x_0 ~ N(m, v I) and z = x + lambda n, dz/dlambda = lambda (z - m) / (v + lambda^2): z - m
    is proportional to sqrt(v + lambda^2)."""
    mean, std = torch.randn(SHAPE, dtype=torch.float64), 0.5
    teacher = GaussianMixtureTeacher({"y": (mean, std)}, SCHEDULE)
    cond = teacher.embed_text(["y"] * B)
    told = Conditions({"cond": cond, "null": cond}, critic=cond)
    fields = NoiseFields([FSD_2D], SHAPE, "cpu")
    step = DistillationStep(FSD_2D, teacher, weighting="asd", field=fields.of(FSD_2D))
    n = fields.of(FSD_2D).background.double()
    first, last = at(984, n)[3], at(0, n)[3]
    end = mean + ((std**2 + last**2) / (std**2 + first**2)).sqrt() * (first * n - mean)
    errors = []
    for stride in (24, 8):
        x = torch.zeros(B, *SHAPE, dtype=torch.float64)
        for t, then in pairwise(range(984, -1, -stride)):
            where, _, _, level = at(t, n)
            found = step.evaluate(x, told, step.noisy(x, where, VIEWS, told), 1.0)
            x = x - found.grad * (level - at(then, n)[3]) / level
        errors.append((x + last * n - end).abs().max().item())
    # Euler's method: a third of the step, a third of the error.
    assert errors[1] < 0.1 and errors[1] < 0.5 * errors[0]
