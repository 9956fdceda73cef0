"""Where the rows take their renders, by closed forms: to a mode, a sample, a distribution, an edit.

With a Gaussian N(m_i, v_i I) for each prompt, E[eps | x_t] is affine in x_t and so is T - S: its
mean over the drawn noise is its value at noise 0. Descent on that mean has no noise of its own, and
ends where the formulas say.
"""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from exact_rows import ASKED, SCHEDULE, SHAPE, LinearCritic, at, gaussians, normal, step_of
from exact_rows import text_of as text
from exact_rows import views_of as views

from threestudio_asd.distill.critic import optimal_critic, rescaled_scale
from threestudio_asd.distill.inversion import ddim_step
from threestudio_asd.distill.weighting import weight
from threestudio_asd.teachers.analytic import gaussian_epsilon

#: Of one standard deviation each: the prompt's is the smallest.
STDS = {"y": 0.3, "target": 0.3, "n": 0.7, "": 0.8, "bad": 0.6, "source": 0.9}
WORLD = gaussians(STDS)
TIMES = torch.arange(20, 981, 80)
#: Where the spread is of the size of the noise, for what learns the spread.
SMALL, STD = torch.tensor([20, 100, 180, 260]), 0.6
SCALE, B = 3.0, 4
START = normal(B, *SHAPE, seed=11)


def parts(row, t):
    """The Gaussians' shares in E[T - S] at the times ``t``, by prompt."""
    s, late = SCALE, (t >= 200).double()
    return {
        "sds": {"y": s, "n": 1 - s},
        "sjc": {"y": s, "n": 1 - s},
        "mvdream": {"y": s, "n": 1 - s},
        "csd": {"y": 1.0, "n": -1.0},
        "nfsd": {"y": s, "n": 1 - s, "bad": -late},
        "sds-bridge": {"target": 40.0, "source": -40.0},
        "sds-bridge-3d": {"target": 1.0, "source": -1.0},
    }[row]


def pull(prompt, t):
    """sigma alpha / (alpha^2 v + sigma^2): how strongly e(alpha x) leads from m to x."""
    v, a2 = STDS[prompt] ** 2, SCHEDULE.signal(t).flatten()
    return ((1 - a2) * a2).sqrt() / (a2 * v + 1 - a2)


def fixed_point(row, weighting):
    """Where the mean over t of w sum_i share_i pull_i (x - m_i) is 0."""
    w = weight(weighting, SCHEDULE, TIMES, START).flatten()
    stiffness, moment = 0.0, 0.0
    for prompt, share in parts(row, TIMES).items():
        strength = (w * share * pull(prompt, TIMES)).mean()
        stiffness = stiffness + strength
        moment = moment + strength * WORLD.means[WORLD.names.index(prompt)]
    assert stiffness > 0.05  # as it must be, or the row runs away
    return moment / stiffness, stiffness


def mean_gradient(step, x, settings, told, times=TIMES):
    """w (T - S) at noise 0, over all times."""
    found = 0.0
    for t in times.tolist():
        noisy = at(x, t, torch.zeros_like(x))
        found = found + step.evaluate(x, told, noisy, SCALE, settings=settings).grad
    return found / len(times)


SETTINGS = {"mvdream": {"recon_std_rescale": 0.0}}
MODES = ("sds", "sjc", "mvdream", "csd", "nfsd", "sds-bridge", "sds-bridge-3d")


@pytest.mark.parametrize("row", MODES)
def test_rows_that_see_each_render_alone_end_in_one_point(row):
    """Whatever their start: a mode, not a sample. sjc's is that of w = sigma^2, too."""
    step = step_of(row, exact=WORLD)
    settings = step.defaults | SETTINGS.get(row, {})
    end, stiffness = fixed_point(row, step.method.weighting)
    x, told = START.clone(), text(B, exact=WORLD)
    for _ in range(12):
        x = x - 0.9 / stiffness * mean_gradient(step, x, settings, told)
    torch.testing.assert_close(x, end.expand_as(x), rtol=0, atol=1e-6)


class MomentCritic(LinearCritic):
    """The best critic of renders as a Gaussian of their moments; of each alone with a camera."""

    def __init__(self, world, renders, gamma):
        super().__init__()
        self.world = world
        self.mean = renders.mean(0, keepdim=True)
        self.variance = (renders - self.mean).square().mean().view(1, 1, 1, 1)
        self.renders, self.gamma = renders, gamma

    def predict(self, x_t, t, condition):
        of = (self.mean, self.variance)
        if condition.camera is not None:
            of = (self.renders, torch.zeros_like(self.variance))
        own = gaussian_epsilon(SCHEDULE, x_t, t, *of)
        return self.one * optimal_critic(own, self.world.epsilon(x_t, t, condition), self.gamma)


def spread_of_esd():
    """u of mean_t w sigma alpha [1 / (alpha^2 v + sigma^2) - 1 / (2 (alpha^2 u + sigma^2))] = 0: of
    two critics at a half each, the one that knows the view says the drawn noise, 0 on average.
    Large t alone has no such u: there ESD ends in one point, too."""
    a2, v = SCHEDULE.signal(SMALL).flatten(), STD**2

    def rest(u):
        strength = (1 - a2) * ((1 - a2) * a2).sqrt()
        return (strength * (1 / (a2 * v + 1 - a2) - 0.5 / (a2 * u + 1 - a2))).mean()

    low, high = 0.0, v
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rest(middle) < 0 else (low, middle)
    return high**0.5


@pytest.mark.parametrize(
    ("row", "gamma", "spread"),
    [("vsd", 0.0, STD), ("asd", -0.75, STD), ("esd", 0.0, spread_of_esd())],
    ids=["vsd", "asd", "esd"],
)
def test_an_exact_critic_keeps_the_distributions_spread(row, gamma, spread):
    """The renders become the prompt's Gaussian, moved by guidance: at s = 1 itself. ASD's guidance
    is that of s' = 1 + (s - 1)(1 + gamma). ESD's entropy over views is half: less spread."""
    world = gaussians(dict.fromkeys(STDS, STD))
    x, told = normal(6, *SHAPE, seed=12), text(6, exact=world)
    camera = torch.eye(4).double().expand(6, 4, 4) if row == "esd" else None
    told = told.with_camera(camera)
    for _ in range(70):
        step = replace(step_of(row, exact=world), critic=MomentCritic(world, x, gamma))
        x = x - 3.0 * mean_gradient(step, x, step.defaults, told, SMALL)
    y, n = (world.means[world.names.index(prompt)] for prompt in ("y", "n"))
    guided = n + rescaled_scale(SCALE, gamma) * (y - n)
    torch.testing.assert_close(x.mean(0), guided, rtol=0, atol=1e-3)
    found = (x - x.mean(0)).square().mean().sqrt().item()
    assert found == pytest.approx(spread, rel=1e-3)
    if row == "esd":
        assert 0.15 < found < 0.25


def test_sdi_shrinks_what_tells_renders_apart():
    """On one Gaussian, with the inversion that ends at t: r = x - alpha_0 m becomes rho r, rho < 1
    the product of the inversion's steps, from the level of t = 0, and the denoising. No sample,
    then: a way towards the mean."""
    step, told = step_of("sdi", exact=WORLD), text(B, exact=WORLD, null="y")
    settings = step.defaults | {"inversion_exact": 1.0, "inversion_eta": 0.0}
    settings |= {"inversion_from_zero": 1.0}
    mean = WORLD.means[WORLD.names.index("y")]
    first = SCHEDULE.alpha(torch.zeros(1).long(), mean)
    for t in (981, 401):
        times = torch.full((B,), t)
        noisy = step.noisy(START, times, views(B), told, settings)
        ends = START - step.evaluate(START, told, noisy, SCALE, settings=settings).grad
        r = torch.ones(1, *SHAPE).double()  # by the same steps, of a Gaussian around 0
        path = [0, *range(1, t, 100), t]
        for now, then in pairwise(path):
            now, then = (torch.tensor([time]) for time in (now, then))
            r = ddim_step(SCHEDULE, r, _central(r, now), now, then)
        alpha, sigma = SCHEDULE.alpha(times[:1], r), SCHEDULE.sigma(times[:1], r)
        rho = ((r - sigma * _central(r, times[:1])) / alpha).mean()
        assert 0 < rho < 1
        torch.testing.assert_close(ends, mean + rho * (START - first * mean), atol=1e-9, rtol=0)


def _central(x_t, t):
    """E[eps | x_t] of the prompt's Gaussian, moved to 0."""
    variance = torch.full((1, 1, 1, 1), STDS["y"] ** 2, dtype=torch.float64)
    return gaussian_epsilon(SCHEDULE, x_t, t, torch.zeros_like(x_t), variance)


def test_dds_moves_an_original_by_what_the_prompts_differ():
    """At s = 1 and equal spreads: z ends at r + m_y - m_src, whatever the noise."""
    world = gaussians(dict.fromkeys(STDS, 0.5))
    step, told, seen = step_of("dds", exact=world), text(B, exact=world), views(B)
    x = seen.reference.clone()
    for k in range(120):
        t = TIMES[torch.arange(k, k + B) * 7 % len(TIMES)]
        noisy = step.noisy(x, t, seen, told)
        x = x - step.evaluate(x, told, noisy, 1.0).grad
    y, source = (world.means[world.names.index(ASKED[k])] for k in ("cond", "reference_cond"))
    torch.testing.assert_close(x, seen.reference + y - source, rtol=0, atol=1e-6)
