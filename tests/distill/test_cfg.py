"""Classifier-free guidance, perp-neg, guidance rescale."""

import pytest
import torch

from threestudio_asd.distill.guidance import (
    classifier_free_guidance,
    convert_threestudio_sds_scale,
    guidance_rescale,
    perp_neg,
    perpendicular_component,
)
from threestudio_asd.errors import UserError

B, K, SHAPE = 3, 2, (4, 5, 6)


@pytest.fixture
def null_and_cond():
    return torch.randn(2, B, *SHAPE)


@pytest.fixture
def negatives():
    """With their weights."""
    return torch.randn(B, K, *SHAPE), -torch.rand(B, K)


def test_scale_zero_is_unconditional_and_scale_one_conditional(null_and_cond):
    null, cond = null_and_cond
    torch.testing.assert_close(classifier_free_guidance(null, cond, 0.0), null)
    torch.testing.assert_close(classifier_free_guidance(null, cond, 1.0), cond)


def test_threestudios_sds_scale_is_converted(null_and_cond):
    g, (null, cond) = 100.0, null_and_cond
    theirs = cond + g * (cond - null)
    ours = classifier_free_guidance(null, cond, convert_threestudio_sds_scale(g))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    assert convert_threestudio_sds_scale(g, perp_neg=True) == g


def test_perpendicular_component_is_orthogonal_item_by_item(null_and_cond):
    x, y = null_and_cond
    p = perpendicular_component(x, y)
    torch.testing.assert_close((p * y).sum(dim=(1, 2, 3)), torch.zeros(B), rtol=0, atol=1e-4)
    torch.testing.assert_close(perpendicular_component(x, 5 * y), p)
    torch.testing.assert_close(perpendicular_component(3 * y, y), torch.zeros_like(y))
    assert torch.equal(perpendicular_component(x, torch.zeros_like(x)), x)


def test_perpendicular_component_survives_half_precision():
    x = torch.full((1, 4, 64, 64), 8.0, dtype=torch.float16)  # <x, x> = 2^20, above 65504
    y = x.clone()
    y[:, :2] *= -1
    torch.testing.assert_close(perpendicular_component(x, y), x)


def test_perp_neg_is_the_sum_written_out_for_single_items(null_and_cond, negatives):
    scale, (null, cond), (e_k, weights) = 7.5, null_and_cond, negatives
    result = classifier_free_guidance(null, perp_neg(cond, e_k, weights, origin=null), scale)
    for b in range(B):
        d_pos = (cond[b] - null[b]).flatten()
        total = d_pos.clone()
        for k in range(K):
            d_neg = (e_k[b, k] - null[b]).flatten()
            across = d_neg - torch.dot(d_neg, d_pos) / torch.dot(d_pos, d_pos) * d_pos
            total += weights[b, k] * across
        expected = null[b] + scale * total.view(SHAPE)
        torch.testing.assert_close(result[b], expected, rtol=1e-4, atol=1e-4)


def test_a_negative_weight_points_away_from_the_negative(null_and_cond, negatives):
    (null, cond), (e_k, _) = null_and_cond, negatives
    across = perpendicular_component(e_k[:, 0] - null, cond - null)
    moved = perp_neg(cond, e_k[:, :1], -torch.ones(B, 1), origin=null)
    assert (((moved - cond) * across).sum(dim=(1, 2, 3)) < 0).all()


def test_perp_neg_of_weight_zero_or_of_a_parallel_negative_changes_nothing(
    null_and_cond, negatives
):
    null, cond = null_and_cond
    zero = perp_neg(cond, negatives[0], torch.zeros(B, K), origin=null)
    assert torch.equal(zero, cond)
    parallel = (null - 2 * (cond - null))[:, None]
    same = perp_neg(cond, parallel, -torch.ones(B, 1), origin=null)
    torch.testing.assert_close(same, cond, rtol=1e-5, atol=1e-5)


def test_perp_neg_without_origin_projects_raw_predictions(null_and_cond, negatives):
    null, cond = null_and_cond
    raw = perp_neg(cond, *negatives, origin=None)
    torch.testing.assert_close(raw, perp_neg(cond, *negatives, origin=torch.zeros_like(null)))
    assert (raw - perp_neg(cond, *negatives, origin=null)).abs().max() > 0.1


def test_guidance_rescale_restores_the_conditional_spread(null_and_cond):
    null, cond = null_and_cond
    target = classifier_free_guidance(null, cond, 7.5)
    assert torch.equal(guidance_rescale(target, cond, 0.0), target)
    full = guidance_rescale(target, cond, 1.0)
    torch.testing.assert_close(full.std(dim=(1, 2, 3)), cond.std(dim=(1, 2, 3)))
    half = guidance_rescale(target, cond, 0.5)
    torch.testing.assert_close(half, 0.5 * (full + target))
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="guidance_rescale"):
            guidance_rescale(target, cond, bad)
