"""benchmarks/mixture.py: what docs/methods.md says of its picture."""

import importlib
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from threestudio_asd.distill.guidance import classifier_free_guidance
from threestudio_asd.distill.inversion import ddim_step
from threestudio_asd.distill.methods import METHODS
from threestudio_asd.distill.prediction_types import to_x0

N, STEPS = 60, 300
# Rows that a panel of another says all of, or whose own panel is still to be drawn.
NOT_DRAWN = ("asd-pair", "sds-bridge-first", "sdi-drawn")
NOT_DRAWN += ("lmc-sds", "jsd", "cds", "dsd", "sim")


@pytest.fixture
def mixture(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("mixture")


@pytest.fixture
def pushed(mixture):
    """Start, noise and ends of some points."""

    def push(name, **options):
        torch.manual_seed(0)
        start, noise = mixture.drawn(mixture.BELOW, N), torch.randn(N, 2, 1, 1).double()
        return start, noise, mixture.pushed(name, start, noise, **{"steps": STEPS, **options})[-1]

    return push


def test_every_row_has_a_panel(mixture):
    shown = [name for names in mixture.PANELS for name in names]
    assert sorted([*shown, *NOT_DRAWN]) == sorted(METHODS)


@pytest.mark.parametrize("row", ["fsd", "fsd-2d", "cfd", "cfd-2d"])
def test_fixed_noise_ends_as_the_sample_of_that_noise(mixture, pushed, row):
    """DDIM's, of x + lambda n at the first t: the same times, and x_0 at the last."""
    start, noise, ends = pushed(row, steps=40)
    teacher, text = mixture.world(), mixture.text_of(N, mixture.TOLD)
    times = torch.linspace(980, 20, 40).round().long()
    x_t = mixture.SCHEDULE.add_noise(start, noise, times[:1].expand(N))

    def guided(x_t, t):
        null, cond = (teacher.epsilon(x_t, t, text[name]) for name in ("null", "cond"))
        return classifier_free_guidance(null, cond, mixture.SCALE)

    for now, then in pairwise(times):
        now, then = now.expand(N), then.expand(N)
        x_t = ddim_step(mixture.SCHEDULE, x_t, guided(x_t, now), now, then)
    last = times[-1:].expand(N)
    sample = to_x0(mixture.SCHEDULE, guided(x_t, last), x_t, last, "epsilon")
    torch.testing.assert_close(ends, sample.flatten(1), rtol=0, atol=1e-9)
    left = (ends[:, 0] < 0).float().mean()
    assert 0.2 < left < 0.8 and mixture.spread(ends) > 0.1


@pytest.mark.parametrize("row", ["sds", "mvdream", pytest.param("sdi", marks=pytest.mark.slow)])
def test_rows_without_critic_or_fixed_noise_lose_the_spread(mixture, pushed, row):
    """At s = 2 all points about a thing come close to one: a third of the thing's spread at most,
    before the rate is all gone."""
    start, _, ends = pushed(row)
    assert mixture.spread(start.flatten(1)) == pytest.approx(mixture.STD, rel=0.15)
    assert mixture.spread(ends) < mixture.STD / 3
    assert ends[:, 1].min() > 0.5  # no longer below


@pytest.mark.parametrize(
    ("row", "low", "high"),
    [("vsd", 0.85, 1.15), pytest.param("esd", 0.3, 0.8, marks=pytest.mark.slow)],
)
def test_an_exact_critic_keeps_the_prompts_distribution(mixture, pushed, row, low, high):
    """At s = 1 VSD's points are the prompt's: both things, where they are, as wide as they are.
    ESD's, each the only one of its camera, are between these and SDS's."""
    _, _, ends = pushed(row, scale=1.0)
    assert low < mixture.spread(ends) / mixture.STD < high
    if row == "vsd":
        for side, thing in ((-1, "above left"), (1, "above right")):
            here = ends[ends[:, 0] * side > 0]
            assert len(here) == pytest.approx(N / 2, abs=4)
            mean = torch.tensor(mixture.THINGS[thing][0]).double()
            torch.testing.assert_close(here.mean(0), mean, rtol=0, atol=0.12)


@pytest.mark.slow
def test_asds_critic_weakens_the_guidance(mixture, pushed):
    """s' = 1 + (s - 1)(1 + gamma): nearer to the prompt's things than VSD at the same s."""
    above = mixture.THINGS["above left"][0][1]
    beyond = {row: pushed(row)[2][:, 1].mean() - above for row in ("vsd", "asd")}
    assert 0 < beyond["asd"] < 0.5 * beyond["vsd"]


@pytest.mark.slow
def test_dds_keeps_what_tells_its_originals_apart(mixture, pushed):
    """They rise, and stay as far from each other as they were."""
    start, _, ends = pushed("dds")
    start = start.flatten(1)
    assert mixture.spread(ends) == pytest.approx(mixture.spread(start), rel=0.15)
    moved = ends - start
    assert moved[:, 1].min() > 1.0 and moved[:, 0].abs().mean() < 0.15
