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
from threestudio_asd.distill.rows.paths.dsd import path_times

N, STEPS = 60, 300
SLOW = pytest.mark.slow


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
    assert sorted(shown) == sorted(METHODS)


def test_rows_of_one_panel_end_alike(mixture, pushed):
    for names in mixture.PANELS:
        first, *others = (pushed(name, steps=20)[2] for name in names)
        for ends in others:
            torch.testing.assert_close(ends, first, rtol=0, atol=1e-9)


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


@pytest.mark.parametrize(
    "row", ["sds", "sdi-drawn", "mvdream", *(pytest.param(r, marks=SLOW) for r in ("sdi", "jsd"))]
)
def test_rows_without_critic_or_fixed_noise_lose_the_spread(mixture, pushed, row):
    """At s = 2 all points about a thing come close to one: a third of the thing's spread at most,
    before the rate is all gone."""
    start, _, ends = pushed(row)
    assert mixture.spread(start.flatten(1)) == pytest.approx(mixture.STD, rel=0.15)
    assert mixture.spread(ends) < mixture.STD / 3
    assert ends[:, 1].min() > 0.5  # no longer below


@pytest.mark.parametrize(
    ("row", "low", "high"),
    [("vsd", 0.85, 1.15), ("sim", 0.7, 1.2), pytest.param("esd", 0.3, 0.8, marks=SLOW)],
)
def test_an_exact_critic_keeps_the_prompts_distribution(mixture, pushed, row, low, high):
    """At s = 1 VSD's points are the prompt's: both things, where they are, as wide as they are.
    ESD's, each the only one of its camera, are between these and SDS's."""
    _, _, ends = pushed(row, scale=1.0)
    assert low < mixture.spread(ends) / mixture.STD < high
    if row != "esd":
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
@pytest.mark.parametrize(("row", "sideways"), [("dds", 0.15), ("asd-pair", 0.3)])
def test_an_edit_keeps_what_tells_its_originals_apart(mixture, pushed, row, sideways):
    """They rise, and stay as far from each other as they were; the pair's critic, which knows all
    of them, mixes those of one thing a little."""
    start, _, ends = pushed(row)
    start = start.flatten(1)
    assert mixture.spread(ends) == pytest.approx(mixture.spread(start), rel=0.15)
    moved = ends - start
    assert moved[:, 1].min() > 1.0 and moved[:, 0].abs().mean() < sideways


@pytest.mark.slow
def test_the_pairs_critic_weakens_the_guidance(mixture, pushed):
    above = mixture.THINGS["above left"][0][1]
    beyond = {row: pushed(row)[2][:, 1].mean() - above for row in ("dds", "asd-pair")}
    assert 0 < beyond["asd-pair"] < 0.5 * beyond["dds"]


def test_a_corrective_that_is_right_everywhere_leaves_what_drives_beyond_the_things(
    mixture, pushed
):
    """The classifier alone, as CSD against the teacher without a prompt: one place for each thing,
    further off than SDS's."""
    ends, sds = pushed("lmc-sds")[2], pushed("sds")[2]
    assert mixture.spread(ends) < mixture.STD
    assert ends[:, 0].abs().mean() > 0.6 > 0.3 > sds[:, 0].abs().mean()
    assert ends[:, 1].mean() > sds[:, 1].mean() + 2 * mixture.STD


def test_the_mean_answer_of_the_teacher(mixture):
    """By quadrature, against many draws."""
    teacher, draws = mixture.world(), 40000
    torch.manual_seed(0)
    x0, t = mixture.drawn(mixture.BELOW, 2), torch.tensor([300, 800])
    found = teacher.corrective()(x0, t)
    many = [x.repeat_interleave(draws, dim=0) for x in (x0, t)]
    x_t = mixture.SCHEDULE.add_noise(many[0], torch.randn(2 * draws, 2, 1, 1).double(), many[1])
    null = mixture.text_of(2 * draws, mixture.TOLD)["null"]
    said = teacher.epsilon(x_t, many[1], null)
    mean = to_x0(mixture.SCHEDULE, said, x_t, many[1], "epsilon").unflatten(0, (2, -1)).mean(1)
    torch.testing.assert_close(found, mean, rtol=0, atol=0.02)
    assert (found - x0).abs().max() > 0.1


@pytest.mark.slow
def test_cds_ends_where_its_noise_is_cancelled(mixture, pushed):
    """At s = 1 a thing less its noise, as large as it was a little before the end, as the rate
    falls to 0; at s = 2 nothing holds the points."""
    _, noise, ends = pushed("cds", scale=1.0)
    noise = noise.flatten(1)
    assert mixture.spread(ends) > 4 * mixture.STD
    assert mixture.spread(ends + 1.5 * noise) < mixture.STD
    for axis in (0, 1):
        assert torch.corrcoef(torch.stack([ends[:, axis], noise[:, axis]]))[0, 1] < -0.95
    assert pushed("cds")[2][:, 1].max() > 4.0


@pytest.mark.slow
def test_dsd_follows_its_own_noises_path(mixture, pushed):
    """To the side where DDIM from that noise ends, and near to its picture at the last t."""
    _, noise, ends = pushed("dsd")
    teacher, text = mixture.world(), mixture.text_of(N, mixture.TOLD)

    def guided(x_t, t):
        null, cond = (teacher.epsilon(x_t, t, text[name]) for name in ("null", "cond"))
        return classifier_free_guidance(null, cond, mixture.SCALE)

    x, times = noise, [torch.full((N,), t) for t in path_times(320, 999, 10)]
    for now, then in pairwise(times):
        x = ddim_step(mixture.SCHEDULE, x, guided(x, now), now, then)
    own = to_x0(mixture.SCHEDULE, guided(x, times[-1]), x, times[-1], "epsilon").flatten(1)
    assert torch.equal(ends[:, 0] < 0, own[:, 0] < 0)
    away = (ends - own).norm(dim=1).mean()
    assert away < 0.5 * (ends - own.roll(1, 0)).norm(dim=1).mean()
