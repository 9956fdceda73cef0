"""The measures agree with libraries, and move the right way."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from threestudio_asd.compare.measure import metrics
from threestudio_asd.compare.measure.reference import truth_mesh
from threestudio_asd.tiny import evaluation, scenes
from threestudio_asd.tiny.evaluation import silhouette_iou
from threestudio_asd.tiny.frechet import fid
from threestudio_asd.tiny.judge import load_judge
from threestudio_asd.tiny.render import FIXED_AZIMUTHS, fixed_views


class Features(torch.nn.Module):
    """For torchmetrics: what it calls images are features already."""

    def __init__(self, count):
        super().__init__()
        self.num_features = count

    def forward(self, x):
        return x


@pytest.fixture(scope="module")
def judge():
    return load_judge()


@pytest.fixture(scope="module")
def mug():
    """The red mug from the fixed views, (8, 3, 64, 64)."""
    return fixed_views("mug", "red")[0]


@pytest.fixture(scope="module")
def sets():
    torch.manual_seed(0)
    return torch.randn(60, 8), 0.7 * torch.randn(60, 8) + 0.4


def speckled(images, share=0.05):
    """A share of the pixels in random colours."""
    torch.manual_seed(1)
    hit = torch.rand(len(images), 1, *images.shape[-2:]) < share
    return torch.where(hit, torch.rand_like(images), images)


def blurred(images):
    return F.avg_pool2d(F.pad(images, (2,) * 4, mode="replicate"), 5, stride=1)


def test_kid_is_torchmetrics_of_the_whole_sets(sets):
    truth, found = sets
    metric = KernelInceptionDistance(feature=Features(8), subsets=1, subset_size=60)
    metric.update(truth, real=True)
    metric.update(found, real=False)
    assert metrics.kid(truth, found) == pytest.approx(float(metric.compute()[0]), rel=1e-4)


def test_kid_takes_sets_of_two_sizes_and_weights(sets):
    truth, found = sets
    assert metrics.kid(truth, truth[:30]) < metrics.kid(truth, found[:30])
    twice = metrics.kid(truth, found[:20], torch.arange(20.0) % 2)
    assert twice == pytest.approx(float(metrics.kid(truth, found[1:20:2])), rel=1e-9)
    assert np.isnan(metrics.kid(truth, found[:1]))


def test_fid_is_torchmetrics_and_refuses_small_sets(sets):
    truth, found = sets
    metric = FrechetInceptionDistance(feature=Features(8))
    metric.set_dtype(torch.float64)
    metric.update(truth, real=True)
    metric.update(found, real=False)
    assert fid(truth, found) == pytest.approx(float(metric.compute()), rel=1e-4)
    # The closed form of two Gaussians with these moments.
    covariances = [np.cov(x.double().T.numpy()) for x in sets]
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real).sum()
    shift = float((truth.double().mean(0) - found.double().mean(0)).square().sum())
    expected = shift + sum(np.trace(c) for c in covariances) - 2 * root
    assert fid(truth, found) == pytest.approx(expected, rel=1e-6)
    assert fid(truth, found[:15]) is None and fid(truth[:15], found) is None


def test_diversity_is_the_mean_distance_of_different_items():
    corners = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    assert metrics.diversity(corners) == pytest.approx((5 + 0 + 5) / 3)
    assert metrics.diversity(corners, torch.tensor([2.0, 2.0, 0.0])) == pytest.approx(5.0)
    assert np.isnan(metrics.diversity(corners[:1]))


def test_wrong_colours_and_objects_lower_the_judges_opinion(judge, mug):
    right = metrics.judge_scores(judge, mug, "mug", "red")
    blue = metrics.judge_scores(judge, fixed_views("mug", "blue")[0], "mug", "red")
    chair = metrics.judge_scores(judge, fixed_views("chair", "red")[0], "mug", "red")
    assert right["right"].mean() == 1.0 and right["p_pair"].mean() > 0.9
    assert blue["p_color"].mean() < 0.1 < 0.9 < blue["p_object"].mean()
    assert chair["p_object"].mean() < 0.1 < 0.9 < chair["p_color"].mean()
    assert blue["right"].sum() == chair["right"].sum() == 0
    product = right["p_object"] * right["p_color"]
    assert torch.allclose(right["p_pair"], product, atol=1e-5)


def test_blur_lowers_sharpness_and_speckle_raises_it(mug):
    sharp, dull = metrics.sharpness(mug), metrics.sharpness(blurred(mug))
    assert (dull < 0.7 * sharp).all()
    assert (metrics.sharpness(speckled(mug)) > sharp).all()
    assert metrics.sharpness(torch.full((1, 3, 64, 64), 0.3)).item() == pytest.approx(0, abs=1e-6)


def test_saturation_follows_the_colours(mug):
    grey = mug.mean(1, keepdim=True)
    vivid, pale = ((grey + k * (mug - grey)).clamp(0, 1) for k in (1.5, 0.5))
    found = [metrics.saturation(x).mean().item() for x in (vivid, mug, pale, grey.expand_as(mug))]
    assert found == sorted(found, reverse=True) and found[-1] == 0.0
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    assert metrics.saturation(red).item() == 1.0
    assert metrics.saturation(torch.zeros(1, 3, 64, 64)).item() == 0.0


def test_speckle_and_blur_raise_kid(judge, mug):
    with torch.no_grad():
        truth, clean, dirty, dull = (
            judge.features(x) for x in (mug, mug.flip(-1), speckled(mug), blurred(mug))
        )
    good = metrics.kid(truth, clean)
    assert metrics.kid(truth, dirty) > good and metrics.kid(truth, dull) > good


def test_drift_is_the_root_mean_square_change(mug):
    assert metrics.drift(mug, mug).sum() == 0
    assert torch.allclose(metrics.drift(mug, mug + 0.25), torch.full((8,), 0.25))


def test_a_scene_agrees_with_its_own_silhouettes_until_it_is_deformed(monkeypatch):
    true = evaluation.true_silhouettes("mug")
    monkeypatch.setattr(evaluation, "true_silhouettes", lambda name: true)
    views = torch.tensor(FIXED_AZIMUTHS) // 5
    own = true[views]
    found = [silhouette_iou(own.roll(shift, -1), "mug")[0] for shift in (0, 3, 8)]
    assert found[0] == 1.0 and found == sorted(found, reverse=True) and found[-1] < 0.8
    turned = true[(views + 6) % 72]
    assert silhouette_iou(turned, "mug") == (1.0, 30)


def test_a_surface_agrees_with_itself_until_it_is_deformed():
    truth = truth_mesh("mug")
    assert metrics.surface_fscore(truth, truth) == 1.0
    scores = []
    for factor in (1.02, 1.1, 1.3):
        scaled = truth.copy()
        scaled.apply_scale(factor)
        scores.append(metrics.surface_fscore(scaled, truth))
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.95 and scores[-1] < 0.5
    assert metrics.surface_fscore(trimesh.Trimesh(), truth) == 0.0


def test_a_missing_half_costs_recall_only():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.8)
    upper = sphere.submesh([np.flatnonzero(sphere.triangles_center[:, 2] > 0)], append=True)
    score = metrics.surface_fscore(upper, sphere)  # precision 1, recall a bit above 1/2
    assert 2 * 0.5 / 1.5 < score < 2 * 0.6 / 1.6


def test_rotation_is_counter_clockwise_from_above():
    point = trimesh.Trimesh([[1.0, 0.0, 0.5]], [])
    assert np.allclose(metrics.rotated(point, 90.0).vertices, [[0, 1, 0.5]])


@pytest.mark.slow
def test_a_filled_mug_has_less_of_the_true_body():
    mug = truth_mesh("mug")
    assert metrics.volume_iou(mug, mug) == 1.0
    cells = metrics.solid(mug)
    axis = (torch.arange(64) + 0.5) / 32 - 1
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    true = scenes.sdf("mug", torch.stack((x, y, z), -1)) < 0
    assert (cells != true).float().mean() < 0.003
    filled = trimesh.creation.cylinder(radius=0.48, height=1.16)
    filled.apply_translation([0, -0.12, 0])
    hollow, thin = metrics.volume_iou(filled, mug), metrics.volume_iou(truth_mesh("torus"), mug)
    assert thin < hollow < 0.6
    assert metrics.volume_iou(trimesh.Trimesh(), mug) == 0.0


def test_closed_cavities_count_as_body():
    outer, inner = (trimesh.creation.icosphere(subdivisions=3, radius=r) for r in (0.8, 0.6))
    inner.invert()
    shell = trimesh.util.concatenate([outer, inner])
    assert metrics.volume_iou(shell, outer) > 0.999
