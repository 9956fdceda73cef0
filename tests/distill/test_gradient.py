"""Timesteps, weightings, and the way from two predictions into autograd."""

import pytest
import torch

from threestudio_asd.distill.gradient import (
    clip_gradient,
    distillation_gradient,
    normalise_gradient,
    reparametrised_loss,
)
from threestudio_asd.distill.methods import Method
from threestudio_asd.distill.schedule import DiscreteSchedule, FlowSchedule
from threestudio_asd.distill.settings import at_start
from threestudio_asd.distill.timesteps import TimestepRange
from threestudio_asd.distill.weighting import WEIGHTINGS, weight
from threestudio_asd.errors import NotRegisteredError, UserError

SCHEDULE = DiscreteSchedule.scaled_linear()


def test_loss_has_the_gradient_divided_by_the_batch_size():
    latents = torch.randn(5, 4, 3, 2, requires_grad=True)
    grad = torch.randn(5, 4, 3, 2)
    loss = reparametrised_loss(latents, grad)
    loss.backward()
    torch.testing.assert_close(latents.grad, grad / 5)
    torch.testing.assert_close(loss.detach(), 0.5 * grad.square().sum() / 5)


@pytest.mark.parametrize(
    ("reduction", "share"), [("batch", 1 / 5), ("mean", 1 / 120), ("pixel", 1 / 6), ("sum", 1)]
)
def test_how_a_batch_is_reduced_is_a_column_of_the_table(reduction, share):
    latents = torch.randn(5, 4, 3, 2, requires_grad=True)
    grad = torch.randn(5, 4, 3, 2)
    row = Method("x", "guided", "noise", None, paper="none", reduction=reduction, factor=2.0)
    loss = reparametrised_loss(latents, grad, row.divisor(latents.shape))
    loss.backward()
    torch.testing.assert_close(latents.grad, 2 * share * grad)
    torch.testing.assert_close(loss.detach(), share * grad.square().sum())


def test_unknown_columns_list_the_known():
    with pytest.raises(NotRegisteredError, match="reduction 'total'; choose one of: batch, mean"):
        Method("x", "guided", "noise", None, paper="none", reduction="total")
    with pytest.raises(NotRegisteredError, match="'sd'; choose one of: asd, fantasia3d"):
        Method("x", "guided", "noise", None, paper="none", weighting="sd")
    with pytest.raises(UserError, match="predictions at reference, which its noising 'gaussian'"):
        Method("x", "guided", "guided-reference", None, paper="none")


def test_a_normalised_gradient_keeps_nothing_at_nothing():
    grad = torch.tensor([3.0, 4.0, 0.0, 0.0]).view(2, 1, 1, 2)
    assert normalise_gradient(grad).flatten().tolist() == pytest.approx([0.6, 0.8, 0, 0])


def test_a_schedule_starts_at_its_first_value():
    values = [2, 0.5, [5, -1.0, -0.5, 10000], [3.0, 1.0, 100], [0, 1, 2, 10, 3, 20]]
    assert [at_start(value) for value in values] == [2, 0.5, -1.0, 3.0, 1]


def test_gradient_is_weighted_difference_without_history():
    target, source = torch.randn(2, 2, 1, 1, 1, requires_grad=True)
    w = torch.tensor([2.0, 3.0]).view(2, 1, 1, 1)
    grad = distillation_gradient(target, source, w)
    assert not grad.requires_grad
    assert torch.equal(grad, (w * (target - source)).detach())


def test_clip_is_entrywise():
    grad = torch.tensor([-3.0, -0.5, 0.5, 3.0]).view(1, 1, 1, 4)
    assert clip_gradient(grad, None) is grad
    assert clip_gradient(grad, 1.0).flatten().tolist() == [-1.0, -0.5, 0.5, 1.0]
    with pytest.raises(UserError, match="grad_clip"):
        clip_gradient(grad, 0.0)


def test_both_edges_of_a_timestep_range_are_drawn():
    edges = TimestepRange(3, 5)
    drawn = edges.sample(200, generator=torch.Generator().manual_seed(0))
    assert sorted(set(drawn.tolist())) == [3, 4, 5]
    assert TimestepRange(7, 7).sample(2).tolist() == [7, 7]


def test_a_range_of_reals():
    reals = TimestepRange(0.25, 0.5)
    drawn = reals.sample(2000, generator=torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.float32 and len(drawn.unique()) > 1900
    assert 0.25 <= drawn.min() < 0.2505 and 0.4995 < drawn.max() <= 0.5
    assert drawn.mean().item() == pytest.approx(0.375, abs=0.01)
    assert TimestepRange(0.5, 0.5).sample(2).tolist() == [0.5, 0.5]
    assert reals.up_to(0.4) == TimestepRange(0.25, 0.4)
    assert reals.up_to(0.1) == TimestepRange(0.1, 0.1)
    with pytest.raises(UserError, match="no range"):
        TimestepRange(0.5, 0.25)


def test_timestep_fractions():
    assert TimestepRange.from_percent(1000, 0.02, 0.98) == TimestepRange(20, 980)
    assert TimestepRange.from_percent(1000, 0.0, 1.0) == TimestepRange(0, 999)
    with pytest.raises(UserError, match="max_step_percent"):
        TimestepRange.from_percent(1000, 0.5, 0.02)
    with pytest.raises(UserError, match="fractions"):
        TimestepRange.from_percent(1000, 20.0, 980.0)
    with pytest.raises(UserError, match="at least 0"):
        TimestepRange(-1, 5)


@pytest.mark.parametrize(
    ("schedule", "times"),
    [(SCHEDULE, [20, 500, 980]), (FlowSchedule(), [0.02, 0.5, 0.98])],
    ids=["discrete", "flow"],
)
def test_weightings(schedule, times):
    t, like = torch.tensor(times), torch.zeros(1)
    alpha, sigma = schedule.alpha(t, like), schedule.sigma(t, like)
    expected = {
        "sds": sigma**2,
        "uniform": torch.ones_like(alpha),
        "fantasia3d": alpha * sigma**2,
        "asd": sigma / alpha,
    }
    assert set(expected) <= set(WEIGHTINGS)
    for name, w in expected.items():
        torch.testing.assert_close(weight(name, schedule, t, like), w)
    assert weight("asd", schedule, t, like.half()).dtype == torch.float16


def test_unknown_weighting_lists_the_known_ones():
    with pytest.raises(NotRegisteredError, match="'sd'; choose one of: asd, fantasia3d, sds, unif"):
        weight("sd", SCHEDULE, torch.tensor([1]), torch.zeros(1))
