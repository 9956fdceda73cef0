"""Classifier-free guidance, perp-neg, guidance rescale."""

import pytest
import torch

from threestudio_asd.distill.guidance import (
    classifier_free_guidance,
    convert_threestudio_sds_scale,
    guidance_rescale,
    guided,
    perp_neg,
    perpendicular_component,
)
from threestudio_asd.distill.scores import Scores
from threestudio_asd.errors import UserError

B, K, SHAPE = 3, 2, (4, 5, 6)


@pytest.fixture
def scores():
    g = torch.Generator().manual_seed(1)
    x_t, noise, null, cond = torch.randn(4, B, *SHAPE, generator=g)
    return Scores(
        x_t=x_t,
        t=torch.tensor([10, 500, 900]),
        noise=noise,
        null=null,
        cond=cond,
        negatives=torch.randn(B, K, *SHAPE, generator=g),
        negative_weights=-torch.rand(B, K, generator=g),
    )


def without_negatives(scores):
    return Scores(scores.x_t, scores.t, scores.noise, scores.null, scores.cond)


def test_scale_zero_is_unconditional_and_scale_one_conditional(scores):
    plain = without_negatives(scores)
    torch.testing.assert_close(guided(plain, 0.0), scores.null)
    torch.testing.assert_close(guided(plain, 1.0), scores.cond)


def test_threestudios_sds_scale_is_converted(scores):
    g, null, cond = 100.0, scores.null, scores.cond
    theirs = cond + g * (cond - null)
    ours = classifier_free_guidance(null, cond, convert_threestudio_sds_scale(g))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    assert convert_threestudio_sds_scale(g, perp_neg=True) == g


def test_perpendicular_component_is_orthogonal_item_by_item(scores):
    x, y = scores.null, scores.cond
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


def test_perp_neg_is_the_sum_written_out_for_single_items(scores):
    scale = 7.5
    result = guided(scores, scale)
    for b in range(B):
        d_pos = (scores.cond[b] - scores.null[b]).flatten()
        total = d_pos.clone()
        for k in range(K):
            d_neg = (scores.negatives[b, k] - scores.null[b]).flatten()
            across = d_neg - torch.dot(d_neg, d_pos) / torch.dot(d_pos, d_pos) * d_pos
            total += scores.negative_weights[b, k] * across
        expected = scores.null[b] + scale * total.view(SHAPE)
        torch.testing.assert_close(result[b], expected, rtol=1e-4, atol=1e-4)


def test_a_negative_weight_points_away_from_the_negative(scores):
    d_pos = scores.cond - scores.null
    across = perpendicular_component(scores.negatives[:, 0] - scores.null, d_pos)
    moved = perp_neg(scores.cond, scores.negatives[:, :1], -torch.ones(B, 1), origin=scores.null)
    assert (((moved - scores.cond) * across).sum(dim=(1, 2, 3)) < 0).all()


def test_perp_neg_of_weight_zero_or_of_a_parallel_negative_changes_nothing(scores):
    null, cond = scores.null, scores.cond
    zero = perp_neg(cond, scores.negatives, torch.zeros(B, K), origin=null)
    assert torch.equal(zero, cond)
    parallel = (null - 2 * (cond - null))[:, None]
    same = perp_neg(cond, parallel, -torch.ones(B, 1), origin=null)
    torch.testing.assert_close(same, cond, rtol=1e-5, atol=1e-5)


def test_perp_neg_without_origin_projects_raw_predictions(scores):
    zero = torch.zeros_like(scores.null)
    weights = scores.negative_weights
    raw = perp_neg(scores.cond, scores.negatives, weights, origin=None)
    torch.testing.assert_close(raw, perp_neg(scores.cond, scores.negatives, weights, origin=zero))
    differences = perp_neg(scores.cond, scores.negatives, weights, origin=scores.null)
    assert (raw - differences).abs().max() > 0.1


def test_negatives_and_weights_come_together(scores):
    with pytest.raises(UserError, match="both"):
        Scores(
            scores.x_t,
            scores.t,
            scores.noise,
            scores.null,
            scores.cond,
            negatives=scores.negatives,
        )


def test_guidance_rescale_restores_the_conditional_spread(scores):
    target = guided(without_negatives(scores), 7.5)
    assert torch.equal(guidance_rescale(target, scores.cond, 0.0), target)
    full = guidance_rescale(target, scores.cond, 1.0)
    torch.testing.assert_close(full.std(dim=(1, 2, 3)), scores.cond.std(dim=(1, 2, 3)))
    half = guidance_rescale(target, scores.cond, 0.5)
    torch.testing.assert_close(half, 0.5 * (full + target))
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="guidance_rescale"):
            guidance_rescale(target, scores.cond, bad)
