import hashlib

import pytest
import torch

from threestudio_asd.errors import UserError
from threestudio_asd.tiny import WEIGHTS
from threestudio_asd.tiny.evaluation import assess, iou, parse_prompt, silhouette_iou
from threestudio_asd.tiny.judge import load_judge, load_report
from threestudio_asd.tiny.render import fixed_views
from threestudio_asd.tiny.scenes import OBJECTS


def test_the_judge_is_the_frozen_one_and_knows_held_out_renders():
    report = load_report()
    digest = hashlib.sha256((WEIGHTS / "judge/judge.safetensors").read_bytes()).hexdigest()
    assert digest == report["sha256"]
    assert report["accuracy"] >= 0.97


@pytest.mark.parametrize(
    "name", ["mug", *(pytest.param(x, marks=pytest.mark.slow) for x in ("house", "torus"))]
)
def test_a_true_result_is_perfect_and_a_wrong_one_is_not(name):
    images, coverage = fixed_views(name, "green")
    judge = load_judge()
    verdict = assess(images, coverage, name, "green", judge)
    assert verdict.right_views == 8
    assert verdict.silhouette_iou > 0.99
    assert verdict.probability == pytest.approx(verdict.truth_probability)
    wrong_colour = assess(images.flip(1), coverage, name, "red", judge)
    assert wrong_colour.right_views == 0
    other = "cone" if name != "cone" else "cube"
    assert assess(images, coverage, other, "green", judge).silhouette_iou < 0.9


def test_the_best_rotation_is_found():
    masks = fixed_views("chair", "red")[1][:, 0] > 0.5
    turned = masks.roll(1, dims=0)  # view i now shows azimuth 45 (i - 1)
    overlap, rotation = silhouette_iou(turned, "chair")
    assert rotation == 315 and overlap > 0.99


def test_noise_lowers_the_judges_probability():
    images, coverage = fixed_views("mug", "blue")
    noisy = (images + 0.5 * torch.randn(images.shape, generator=torch.manual_seed(0))).clamp(0, 1)
    clean, dirty = (assess(x, coverage, "mug", "blue").probability for x in (images, noisy))
    assert dirty < clean


def test_iou():
    a = torch.zeros(2, 4, 4, dtype=torch.bool)
    b = a.clone()
    a[0, :2], b[0, 1:3] = True, True
    assert iou(a, b).tolist() == pytest.approx([1 / 3, 1.0])


def test_prompts_are_understood_or_refused():
    assert parse_prompt("a photo of a red mug, side view") == ("mug", "red")
    assert parse_prompt("An Orange House") == ("house", "orange")
    with pytest.raises(UserError, match="one object and one colour"):
        parse_prompt("a hamburger")
    assert set(OBJECTS) >= {"mug", "cube"}
