"""Rows that follow other divergences than SDS and VSD: JSD and SIM, on exact scores."""

from dataclasses import replace

import pytest
import torch
from exact_rows import (
    EXACT,
    SCHEDULE,
    SHAPE,
    Streams,
    at,
    gaussians,
    levels_of,
    normal,
    step_of,
    text_of,
    views_of,
)
from torch import nn

from threestudio_asd.guidance.step import DistillationStep
from threestudio_asd.teachers.analytic import gaussian_epsilon

B = 3
T = torch.tensor([90, 430, 870])
X0, EPS = normal(B, *SHAPE, seed=4), normal(B, *SHAPE, seed=5)
SCALE = 4.0


def close(a, b, tolerance=1e-9):
    assert b.abs().max() > 0.01
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * b.abs().max().item())


def gradients(name, scale=SCALE, perp_neg=False, **settings):
    """w (T - S) and the loss's gradient after the row's own noising, and the noisy batch."""
    step, text = step_of(name), text_of(B, perp_neg)
    settings = step.defaults | settings
    noisy = step.noisy(X0, T, views_of(B), text, settings, Streams(B), scale)
    latents = X0.clone().requires_grad_()
    found = step.evaluate(latents, text, noisy, scale, settings=settings)
    return found.grad, torch.autograd.grad(found.loss, latents)[0], noisy


@pytest.mark.parametrize("perp_neg", [False, True])
def test_jsd_without_its_second_answer_is_sdi(perp_neg):
    same = {"inversion_eta": 0.0}  # its own fresh noise comes before an inversion's
    jsd = gradients("jsd", SCALE, perp_neg, jsd_scale=0.0, **same)
    sdi = gradients("sdi", SCALE, perp_neg, **same)
    close(jsd[0], sdi[0])
    close(jsd[1], sdi[1])


def test_jsd_written_out():
    k, settings = 0.3, {"inversion_eta": 0.0, "inversion_exact": 1.0}
    grad, loss, noisy = gradients("jsd", jsd_scale=k, **settings)
    text, (alpha, sigma) = text_of(B), levels_of(T)

    def denoised(x_t):
        e_n, e_y = (EXACT.epsilon(x_t, T, text[name]) for name in ("null", "cond"))
        return (x_t - sigma * (e_n + SCALE * (e_y - e_n))) / alpha

    once = denoised(noisy.x_t)
    fresh = Streams(B).normal(X0)  # the only draw: the inversion adds no noise and ends at t
    twice = denoised(alpha * once + sigma * fresh)
    close(grad, (X0 - once) + k * (X0 - twice))
    close(loss, grad / X0.numel())


def test_jsd_denoises_at_the_scale_of_the_step():
    step, text = step_of("jsd"), text_of(B)
    found = {s: step.noisy(X0, T, views_of(B), text, None, Streams(B), s) for s in (1.0, 4.0)}
    torch.testing.assert_close(found[1.0].x_t, found[4.0].x_t)
    apart = {k: found[4.0].extras[k] - found[1.0].extras[k] for k in ("once", "twice")}
    e_n, e_y = (EXACT.epsilon(found[1.0].x_t, T, text[name]) for name in ("null", "cond"))
    close(apart["once"], 3.0 * (e_y - e_n))
    assert apart["twice"].abs().max() > 0.01


class ExactCritic(nn.Module):
    """The score of renders x_0 ~ N(mean, variance I)."""

    prediction_type, schedule = "epsilon", SCHEDULE

    def __init__(self, mean, variance):
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.mean = mean
        self.variance = torch.full((1, 1, 1, 1), variance, dtype=torch.float64)

    def predict(self, x_t, t, condition):
        return self.one * gaussian_epsilon(SCHEDULE, x_t, t, self.mean, self.variance)

    def draw_camera_dropout(self):
        return False


MEAN = normal(1, *SHAPE, seed=9)


def sim(x0, noise, t, std, mean=MEAN, variance=0.36):
    """The gradient of SIM's loss with respect to each x_0, times the batch."""
    exact = gaussians({"y": std})
    row = step_of("sim", exact=exact)
    step = DistillationStep(row.method, row.teacher, ExactCritic(mean, variance))
    latents = x0.clone().requires_grad_()
    noisy = replace(at(latents, t, noise))
    found = step.evaluate(latents, text_of(len(x0), exact=exact), noisy, 1.0)
    assert found.grad is None
    return len(x0) * torch.autograd.grad(found.loss, latents)[0], exact


def test_sims_gradient_is_that_of_the_distance_of_the_scores():
    """One variance v for prompt and renders: |D_s - D_phi| = f |m - theta| everywhere, f = sigma^2
    / (alpha^2 v + sigma^2), whose gradient in theta, the renders' mean, each draw gives."""
    grad, exact = sim(X0, EPS, T, std=0.6)
    alpha, sigma = levels_of(T)
    apart = exact.means[exact.names.index("y")] - MEAN
    factor = sigma**2 / (alpha**2 * 0.36 + sigma**2)
    close(grad, -factor * apart / apart.norm(), 1e-7)


def test_sims_gradient_is_that_of_the_distance_in_the_mean_over_draws():
    """Prompt and renders of two variances: many draws of renders and noise against the derivative
    of E |D_s - D_phi| in the mean whose score D_phi is, at the same x_t, by central differences."""
    n, time = 4000, 500
    t = torch.full((n,), time)
    x_0 = MEAN + 0.6 * normal(n, *SHAPE, seed=10)
    noise = normal(n, *SHAPE, seed=11)
    grad, exact = sim(x_0, noise, t, std=0.9)
    alpha, sigma = levels_of(time)
    mean, x_t = exact.means[exact.names.index("y")], alpha * x_0 + sigma * noise

    def distance(theta):
        pair = ((mean, 0.81), (theta, 0.36))
        of = [m + alpha * v / (alpha**2 * v + sigma**2) * (x_t - alpha * m) for m, v in pair]
        return (of[0] - of[1]).flatten(1).norm(dim=1).mean()

    along = normal(1, *SHAPE, seed=12)
    along = along / along.norm()
    for direction in (along, (mean - MEAN) / (mean - MEAN).norm()):
        expected = (distance(MEAN + 1e-4 * direction) - distance(MEAN - 1e-4 * direction)) / 2e-4
        found = (grad * direction).sum(dim=(1, 2, 3)).mean()
        assert abs(found - expected) < 0.03 and abs(expected) < 1.0
    assert expected < -0.1  # towards the prompt's mean


def test_sims_gradient_keeps_its_size_where_vsds_vanishes():
    exact = gaussians({"y": 0.6})
    mean = exact.means[exact.names.index("y")][None]
    sizes = {"sim": [], "vsd": []}
    for far in (1.0, 0.01):
        critic_mean = mean + far * MEAN
        grad, _ = sim(X0, EPS, T, std=0.6, mean=critic_mean)
        sizes["sim"].append(grad.norm().item())
        row = step_of("vsd", exact=exact)
        step = DistillationStep(row.method, row.teacher, ExactCritic(critic_mean, 0.36))
        text = text_of(B, exact=exact)
        found = step.evaluate(X0.clone().requires_grad_(), text, at(X0, T, EPS), 1.0)
        sizes["vsd"].append(found.grad.norm().item())
    assert sizes["sim"][1] == pytest.approx(sizes["sim"][0], rel=1e-4)
    assert sizes["vsd"][1] == pytest.approx(0.01 * sizes["vsd"][0], rel=1e-6)


def test_sim_where_the_scores_agree_is_zero_and_finite():
    exact = gaussians({"y": 0.6})
    mean = exact.means[exact.names.index("y")][None]
    grad, _ = sim(X0, EPS, T, std=0.6, mean=mean)
    assert torch.isfinite(grad).all() and grad.abs().max() < 1e-3
