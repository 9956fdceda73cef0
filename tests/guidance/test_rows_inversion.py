"""Where SDI's and ISM's inversions lead, in closed form, and at which times they ask.

Of N(m, v) a DDIM step from t to t' is affine around the mean:

    x' - alpha' m = F (x - alpha m),    F = (alpha' alpha v + sigma' sigma) / (alpha^2 v + sigma^2)

and with one v for all prompts guidance moves the mean alone, m = m_null + k (m_y - m_null).
"""

import math
from itertools import pairwise

import pytest
import torch
from exact_rows import SCHEDULE, SHAPE, Streams, gaussians, normal, step_of, text_of, views_of

from threestudio_asd.distill.methods import METHODS
from threestudio_asd.distill.rows.paths.ism import interval_times
from threestudio_asd.distill.rows.paths.sdi import inversion_times
from threestudio_asd.distill.schedule import FlowSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.step import DistillationStep
from threestudio_asd.teachers.plain import PlainTeacher

B, V = 3, 0.36
T = torch.tensor([90, 430, 870])
X0 = normal(B, *SHAPE, seed=4)
SAME = gaussians()
TEXT = text_of(B, exact=SAME)
MEAN = {name: SAME.means[SAME.names.index(p)] for name, p in (("null", "n"), ("cond", "y"))}
NOTHING = SAME.means[0]


def levels(t):
    abar = SCHEDULE.alphas_cumprod[max(t, 0)].item()
    return math.sqrt(abar), math.sqrt(1 - abar)


def stepped(x, mean, t, to):
    (alpha, sigma), (alpha_to, sigma_to) = levels(t), levels(to)
    factor = (alpha_to * alpha * V + sigma_to * sigma) / (alpha**2 * V + sigma**2)
    return alpha_to * mean + factor * (x - alpha * mean)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("t", "last", "from_zero", "times"),
    [
        (680, 680, False, [-99, 1, 101, 201, 301, 401, 501, 601, 680]),
        (437, 459, False, [-99, 1, 101, 201, 301, 401, 459]),
        (402, 402, True, [0, 1, 101, 201, 301, 401, 402]),
        (401, 480, False, [-99, 1, 101, 201, 301, 480]),
        (1, 50, False, [-99, 50]),
    ],
)
def test_times_of_an_inversion(t, last, from_zero, times):
    assert inversion_times(t, last, 100, 10, from_zero) == times


@pytest.mark.parametrize(
    ("s", "stride", "n", "times"),
    [
        (406, 200, 5, [1, 201, 401, 406]),
        (568, 200, 5, [1, 201, 401, 568]),
        (1, 200, 5, [1]),
        (601, 100, 2, [401, 501, 601]),
        (601, 100, 0, [601]),
    ],
)
def test_times_of_an_interval(s, stride, n, times):
    assert interval_times(s, stride, n) == times


@pytest.mark.parametrize("eta", [0.0, 0.3])
@pytest.mark.parametrize("exact", [0.0, 1.0])
def test_sdis_inversion_in_closed_form(eta, exact):
    step = step_of("sdi", exact=SAME)
    scale = -3.0
    settings = {"inversion_eta": eta, "inversion_exact": exact, "inversion_guidance_scale": scale}
    settings = step.defaults | settings
    draws = Streams(B)
    noisy = step.noisy(X0, T, views_of(B), TEXT, settings, draws)
    mean = MEAN["null"] + scale * (MEAN["cond"] - MEAN["null"])
    lasts = T.tolist() if exact else [90 + 10, 430 + 50, 870 + 90]  # uniforms .1, .5, .9
    for b, last in enumerate(lasts):
        x, grid = X0[b], [t for t in range(1, 1000, 100) if t < T[b]]
        path = [-99, *grid, last]
        for k, (t, to) in enumerate(pairwise(path)):
            (alpha, sigma), (alpha_to, sigma_to) = levels(t), levels(to)
            variance = sigma**2 / sigma_to**2 * (1 - alpha_to**2 / alpha**2)
            x = stepped(x, mean, t, to) + eta * math.sqrt(variance) * draws.normals[k, b]
        close(noisy.x_t[b], x)
        alpha, sigma = levels(T[b].item())
        close(noisy.noise[b], (x - alpha * X0[b]) / sigma)


def test_isms_inversion_in_closed_form():
    step = step_of("ism", exact=SAME)
    settings = step.defaults | {"interval_delta": 60.0, "offset_noise": 0.2}
    draws = Streams(B)
    noisy = step.noisy(X0, T, views_of(B), TEXT, settings, draws)
    for b, t in enumerate(T.tolist()):
        alpha, sigma = levels(1)
        noise = draws.normals[0, b] + 0.2 * draws.normals[1, b, :, :1, :1]
        x, path = alpha * X0[b] + sigma * noise, [*range(1, t - 60, 200), t - 60]
        for now, to in pairwise(path):
            x = stepped(x, NOTHING, now, to)
        close(noisy.extras["before"][b], x)
        alpha, sigma = levels(t - 60)
        inverted = sigma * (x - alpha * NOTHING) / (alpha**2 * V + sigma**2)
        close(noisy.extras["inverted"][b], inverted)
        close(noisy.x_t[b], stepped(x, NOTHING, t - 60, t))


def asked(name, monkeypatch, settings):
    """(t of each row) of every call of the teacher by the noising."""
    step = step_of(name, exact=SAME)
    times, ask = [], step.teacher.epsilon
    monkeypatch.setattr(
        step.teacher, "epsilon", lambda x, t, c: times.append(t.tolist()) or ask(x, t, c)
    )
    settings = step.defaults | settings
    step.noisy(X0, T, views_of(B), TEXT, settings, Streams(B))
    return times


def test_items_of_an_inversion_are_asked_about_together_while_they_go_on(monkeypatch):
    """Two rows for each item: null and cond."""
    times = asked("sdi", monkeypatch, {"inversion_exact": 1.0})
    assert times[0] == [-99] * 6
    assert times[1] == [1] * 6
    assert [sorted(set(row)) for row in times[2:]] == [[k] for k in range(101, 900, 100)]
    assert [len(row) for row in times] == [6, 6, 4, 4, 4, 4, 2, 2, 2, 2]
    from_zero = asked("sdi", monkeypatch, {"inversion_exact": 1.0, "inversion_from_zero": 1.0})
    assert from_zero == [[0] * 6, *times[1:]]
    times = asked("ism", monkeypatch, {"interval_delta": 60.0})
    assert times == [[1, 1, 1], [201, 201], [401], [601], [801], [30, 370, 810]]


def test_views_of_a_scene_go_equally_far():
    """Two draws for two groups of two views."""
    step, drawn = step_of("sdi", exact=SAME), []
    step.teacher.views_at_once = 2

    class Counting(Streams):
        def uniform(self, n, device):
            drawn.append(n)
            return torch.tensor([0.1, 0.9])[:n]

    t, x0 = torch.tensor([430, 430, 870, 870]), X0[:1].expand(4, *SHAPE)
    settings = step.defaults | {"inversion_eta": 0.0}
    text, views = text_of(4, exact=SAME), views_of(4)
    x_t = step.noisy(x0, t, views, text, settings, Counting(4)).x_t
    assert drawn == [2]
    torch.testing.assert_close(x_t[0::2], x_t[1::2])


@pytest.mark.parametrize("name", ["sdi", "ism"])
def test_an_inversion_needs_numbered_levels(name):
    flow = PlainTeacher(lambda x, t, c: x, SHAPE, FlowSchedule(), "flow_prediction")
    step = DistillationStep(METHODS.get(name), flow)
    with pytest.raises(UserError, match="numbered levels"):
        step.noisy(X0, torch.full((B,), 0.5), views_of(B), TEXT)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sdi", {"inversion_n_steps": 0.0}, "inversion_n_steps must lie in 1..1000; got 0"),
        ("ism", {"xs_delta": 0.0}, "xs_delta at least 1; got 80, 5 and 0"),
        ("ism", {"interval_delta": -1.0}, "at least 0"),
    ],
)
def test_strides_that_lead_nowhere_are_told(name, settings, message):
    step = step_of(name)
    settings = step.defaults | {"interval_delta": 80.0} | settings
    settings = {key: value for key, value in settings.items() if key in step.defaults}
    with pytest.raises(UserError, match=message):
        step.noisy(X0, T, views_of(B), TEXT, settings)
