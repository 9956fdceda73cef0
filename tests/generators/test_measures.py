"""The measures of an evaluation: right on truth and on noise, and their intervals."""

import pytest
import torch

from threestudio_asd.compare.measure import metrics
from threestudio_asd.generators.measure import measures
from threestudio_asd.generators.measure.measures import (
    Ruler,
    as_json,
    estimate,
    held_renders,
    pairs_of,
)
from threestudio_asd.tiny.dataset import build
from threestudio_asd.tiny.judge import load_judge
from threestudio_asd.tiny.scenes import HELD_OUT, training_pairs
from threestudio_asd.tiny.train.measure import RENDER_SEED, captions_of


def check(truth, images, said, pairs):
    """Other pictures of the truth measure as the truth, and noise does not."""
    ruler = Ruler(load_judge(), truth, resamples=20)
    good = ruler.measure(images, said, pairs)
    assert good["fid"].value < 1 and abs(good["kid"].value) < 0.05
    assert good["right"].value > 0.95 and abs(good["sharpness"].value) < 0.005
    for one in good.values():
        assert one.low <= one.value <= one.high
    noise = ruler.measure(torch.rand_like(images), said, pairs)
    assert noise["fid"].low > 30 and noise["kid"].low > 1 and noise["right"].value < 0.1
    assert good["fid"].high < 2 and noise["sharpness"].low > 0.5
    # The right pictures where others were asked for.
    shifted = ruler.measure(images, said, pairs[7:] + pairs[:7])
    assert shifted["right"].value < 0.2
    assert shifted["fid"].value == pytest.approx(good["fid"].value)


def test_truth_measures_as_truth_and_noise_does_not():
    renders = build(44, 3, training_pairs()[::2], 0.0)
    pool, rng = renders.images.float() / 255, torch.Generator().manual_seed(0)

    def drawn(count):
        """Of a few renders at other brightnesses: quicker than as many renders."""
        ids = torch.arange(count) % len(pool)
        light = 0.9 + 0.2 * torch.rand(count, 1, 1, 1, generator=rng)
        return ids.tolist(), (pool[ids] * light).clamp(0, 1)

    ids, images = drawn(220)
    said, pairs = captions_of(renders), pairs_of(renders)
    check(drawn(440)[1], images, [said[i] for i in ids], [pairs[i] for i in ids])


@pytest.mark.slow
def test_true_renders_measure_as_true_renders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    truth, others = held_renders(1024), held_renders(512, RENDER_SEED + 1)
    images = others.images.float() / 255
    check(truth.images.float() / 255, images, captions_of(others), pairs_of(others))


def test_renders_are_of_pairs_that_teachers_know(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    renders = held_renders(88)
    assert set(pairs_of(renders)) == set(training_pairs()) and not renders.normal_maps.any()
    assert not set(pairs_of(renders)) & set(HELD_OUT)
    monkeypatch.setattr("threestudio_asd.tiny.dataset.build", None)
    assert torch.equal(held_renders(88).images, renders.images)


def test_pictures_of_one_caption_that_are_one_picture_have_no_diversity():
    renders = build(4, 0, [("mug", "red"), ("cube", "blue")], 0.0)
    images = renders.images.float() / 255
    ruler = Ruler(load_judge(), images, resamples=10)
    said = ["a", "b", "c", "d"]
    twice = torch.cat([images, images])
    found = ruler.measure(twice, said * 2, pairs_of(renders) * 2)
    assert found["diversity"].value == pytest.approx(0.0, abs=1e-4)
    # Different pictures of one caption have some; a caption of a single picture says nothing.
    assert ruler.measure(twice, ["a"] * 8, pairs_of(renders) * 2)["diversity"].value > 0
    alone = ruler.measure(images, said, pairs_of(renders))
    assert as_json(alone)["diversity"] == [None, None, None]
    assert as_json(alone)["fid"] == [None, None, None]  # too few for a covariance


def test_intervals_are_those_of_the_statistic():
    torch.manual_seed(0)
    count, share = 400, 0.8
    right = (torch.arange(count) < share * count).double()
    w = Ruler(load_judge(), torch.zeros(1, 3, 64, 64), resamples=2000)._weights(count)
    assert torch.equal(w[0], torch.ones(count).double()) and (w.sum(1) == count).all()
    found = estimate(measures._means(right, w))
    error = (share * (1 - share) / count) ** 0.5
    assert found.value == share
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert (found.low + found.high) / 2 == pytest.approx(share, abs=0.2 * error)


def test_a_bias_of_resampling_does_not_move_the_interval():
    resampled = torch.linspace(4.0, 6.0, 2001)
    found = estimate(torch.cat([torch.tensor([3.0]), resampled]).double())
    assert (found.low, found.high) == pytest.approx((3 - 0.95, 3 + 0.95), abs=1e-3)


def test_rows_of_weights_are_sets_of_their_own():
    torch.manual_seed(0)
    truth, found = torch.randn(20, 6), torch.randn(12, 6) + 0.3
    w = torch.randint(0, 3, (5, 12)).float()
    kids, spread = metrics.kid(truth, found, w), metrics.diversity(found, w)
    for i in range(5):
        assert float(kids[i]) == pytest.approx(float(metrics.kid(truth, found, w[i])), rel=1e-9)
        pairs = [
            (w[i, a] * w[i, b], (found[a] - found[b]).norm())
            for a in range(12)
            for b in range(12)
            if a != b
        ]
        mean = sum(c * d for c, d in pairs) / sum(c for c, _ in pairs)
        assert float(spread[i]) == pytest.approx(float(mean), rel=1e-4)


def test_only_the_pairs_that_count_do():
    matrix = torch.tensor([[9.0, 1.0, 2.0], [1.0, 9.0, 4.0], [2.0, 4.0, 9.0]])
    among = torch.tensor([[True, True, False], [True, True, True], [False, True, True]])
    assert float(metrics.pair_mean(matrix, torch.ones(3), among)) == pytest.approx(2.5)
    weights = torch.tensor([1.0, 2.0, 0.0])
    assert float(metrics.pair_mean(matrix, weights, among)) == pytest.approx(1.0)
    assert metrics.pair_mean(matrix, torch.tensor([1.0, 0.0, 1.0]), among).isnan()
