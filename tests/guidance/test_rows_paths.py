"""Rows whose source lies on the teacher's flow: CDS and DSD, on exact scores."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from exact_rows import (
    EXACT,
    SHAPE,
    Streams,
    at,
    levels_of,
    normal,
    step_of,
    text_of,
    views_of,
)

from threestudio_asd.distill.noise_fields import FieldNoise
from threestudio_asd.distill.rows.paths.dsd import path_times
from threestudio_asd.distill.schedule import FlowSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.step import DistillationStep
from threestudio_asd.teachers.plain import PlainTeacher

B, SCALE = 3, 4.0
T = torch.tensor([340, 560, 870])
X0, NOISE = normal(B, *SHAPE, seed=4), normal(B, *SHAPE, seed=13)
UNIFORMS = (0.1, 0.5, 0.9)  # what Streams gives


def field(x0, views):
    """One noise for each item, whatever the views."""
    return FieldNoise(NOISE, torch.ones(B, 1, *SHAPE[1:], dtype=torch.bool))


def close(a, b, tolerance=1e-9):
    assert b.abs().max() > 0.01
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * b.abs().max().item())


def guided(x_t, t, scale=SCALE):
    text = text_of(len(x_t))
    e_n, e_y = (EXACT.epsilon(x_t, t, text[name]) for name in ("null", "cond"))
    return e_n + scale * (e_y - e_n)


def stepped(x_t, t, to):
    """DDIM's step."""
    (alpha, sigma), (alpha_to, sigma_to), e = levels_of(t), levels_of(to), guided(x_t, t)
    return alpha_to * (x_t - sigma * e) / alpha + sigma_to * e


def denoised(x_t, t):
    alpha, sigma = levels_of(t)
    return (x_t - sigma * guided(x_t, t)) / alpha


def noisy_and_grad(name, x0=X0, t=T, **settings):
    step, text = step_of(name, field=field), text_of(B)
    settings = step.defaults | settings
    noisy = step.noisy(x0, t, views_of(B), text, settings, Streams(B), SCALE)
    found = step.evaluate(x0.clone().requires_grad_(), text, noisy, SCALE, settings=settings)
    return noisy, found.grad


def test_cds_written_out():
    noisy, grad = noisy_and_grad("cds")
    t = (T + 100 + torch.tensor([int(200 * u) for u in UNIFORMS])).clamp_max(999)
    to = T.clamp_max(899)
    assert torch.equal(noisy.t, t)
    x_t = at(X0, t, NOISE).x_t
    x_to = stepped(x_t, t, to)
    close(grad, guided(x_t, t) - guided(x_to, to))
    # In units of x_0: what the two denoised renders differ by.
    alpha, sigma = levels_of(to)
    close(grad, (denoised(x_to, to) - denoised(x_t, t)) * alpha / sigma)


def test_cds_rests_where_its_noise_is_cancelled(monkeypatch):
    """Of a Gaussian, x_0 = m - lambda n; from there on it grows with the distance."""
    monkeypatch.setitem(globals(), "SCALE", 1.0)
    mean, (alpha, sigma) = EXACT.means[EXACT.names.index("y")], levels_of(torch.tensor([700]))
    rest, t = mean - sigma / alpha * NOISE, torch.full((B,), 500)
    grads = [
        noisy_and_grad("cds", x0=rest + far * X0, t=t, cds_gap=200.0, cds_spread=0.0)[1]
        for far in (0.0, 1.0, 2.0)
    ]
    assert grads[0].abs().max() < 1e-12 and (grads[1] * X0).sum() > 1.0
    close(grads[2], 2 * grads[1])


def test_cds_ends_at_the_last_time():
    noisy, grad = noisy_and_grad("cds", t=torch.full((B,), 999), cds_gap=400.0)
    assert torch.equal(noisy.t, torch.full((B,), 999))
    t = torch.full((B,), 599)
    x_to = stepped(noisy.x_t, noisy.t, t)
    close(grad, guided(noisy.x_t, noisy.t) - guided(x_to, t))


def test_times_of_a_path():
    assert path_times(640, 999, 10) == [999, 899, 799, 699, 640]
    assert path_times(999, 999, 10) == [999]
    assert path_times(1, 999, 3) == [999, 666, 333, 1]


def path(to):
    """Where the path from each item's noise arrives at its time ``to``."""
    ends = []
    for b, r in enumerate(to.tolist()):
        x = NOISE[b : b + 1]
        for t, then in pairwise(path_times(r, 999, 10)):
            x = stepped(x, torch.tensor([t]), torch.tensor([then]))
        ends.append(x)
    return torch.cat(ends)


AHEAD = torch.tensor([int(u * 0.1 * (t - 320)) for u, t in zip(UNIFORMS, T.tolist(), strict=True)])


def test_dsd_written_out():
    noisy, grad = noisy_and_grad("dsd", dsd_source_scale=2.0)
    r = T + AHEAD
    assert AHEAD.tolist() == [0, 12, 49]
    e = guided(path(r), r)
    torch.testing.assert_close(noisy.noise, e)
    x_t, x_r = at(X0, T, e).x_t, at(X0, r, e).x_t
    close(grad, levels_of(T)[1] ** 2 * (guided(x_t, T) - guided(x_r, r, 2.0)))


def test_dsd_of_the_paths_own_picture_is_the_paths_change():
    """x_r is then the path's point and x_t DDIM's next; at r = t nothing is left to do."""
    r = T + AHEAD
    ends = path(r)
    x0 = denoised(ends, r)
    _, grad = noisy_and_grad("dsd", x0=x0, dsd_source_scale=SCALE)
    change = guided(stepped(ends, r, T), T) - guided(ends, r)
    close(grad, levels_of(T)[1] ** 2 * change)
    assert grad[0].abs().max() < 1e-12  # r = t = 340


def test_another_noise_is_another_path(monkeypatch):
    grads = []
    for scale in (1.0, -1.0):
        monkeypatch.setitem(globals(), "NOISE", scale * NOISE)
        grads.append(noisy_and_grad("dsd")[1])
    assert (grads[0] - grads[1]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cds", {"cds_gap": 0.0}, r"cds_gap must lie in 1..999"),
        ("cds", {"cds_spread": -1.0}, r"cds_spread must not be negative; got 100 and -1"),
        ("dsd", {"dsd_steps": 0.0}, "dsd_steps must be at least 1"),
        ("dsd", {"dsd_ahead": -0.1}, "dsd_ahead must not be negative"),
    ],
)
def test_bad_settings_are_told(name, settings, message):
    with pytest.raises(UserError, match=message):
        noisy_and_grad(name, **settings)


@pytest.mark.parametrize("name", ["cds", "dsd"])
def test_a_flow_has_no_levels_to_walk_along(name):
    teacher = PlainTeacher(lambda x, t, condition: x, SHAPE, FlowSchedule())
    step = replace(step_of(name, field=field))
    step = DistillationStep(step.method, teacher, field=field)
    with pytest.raises(UserError, match="numbered levels"):
        step.noisy(X0, torch.full((B,), 0.5), views_of(B), text_of(B))
