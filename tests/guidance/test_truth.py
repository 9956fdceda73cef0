"""The truth as a guidance: nothing to say of the true picture, and the way there of any other."""

import pytest
import torch

from threestudio_asd.errors import UserError
from threestudio_asd.guidance.truth import (
    TruthPixelsGuidance,
    TruthScoreGuidance,
    true_renders,
)
from threestudio_asd.scene.cameras import camera_batch, orbit_positions
from threestudio_asd.tiny import model_folder
from threestudio_asd.tiny.render import render

GREYS = (0.2, 0.8)


class Prompt:
    prompt = "a red mug"


def cameras(size=64, moved=0.0):
    """Two cameras, each before a grey of its own."""
    view = {
        "elevation_deg": torch.tensor([15.0, 40.0]),
        "azimuth_deg": torch.tensor([30.0, -120.0]),
        "distances": torch.tensor([2.3, 2.5]),
    }
    positions = orbit_positions(*view.values())
    batch = camera_batch(
        positions=positions + moved,
        targets=torch.zeros(2, 3),
        up=torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3),
        fovy_deg=torch.tensor([42.0, 48.0]),
        light_positions=positions,
        height=size,
        width=size,
        **view,
    )
    behind = torch.tensor(GREYS)[:, None, None, None].expand(2, size, size, 3)
    return batch | {"comp_rgb_bg": behind}


def test_the_true_renders_are_the_worlds_own_before_the_scenes_background():
    batch = cameras()
    for index, grey in enumerate(GREYS):
        view = ("azimuth", "elevation", "camera_distances")
        angles = [batch[key][index : index + 1] for key in view]
        fovy = torch.rad2deg(batch["fovy"][index : index + 1])
        background = torch.full((1, 3), grey)
        expected, _ = render("mug", "red", *angles, fovy, background)
        torch.testing.assert_close(
            true_renders(Prompt.prompt, batch)[index], expected[0].permute(1, 2, 0)
        )


def test_pixels_ask_for_half_the_squared_error_of_an_image():
    batch = cameras()
    rgb = torch.rand(2, 64, 64, 3, requires_grad=True)
    out = TruthPixelsGuidance({})(rgb, Prompt, **batch)
    (grad,) = torch.autograd.grad(out["loss_truth"], rgb)
    torch.testing.assert_close(grad, (rgb - true_renders(Prompt.prompt, batch)).detach() / 2)
    at_truth = TruthPixelsGuidance({})(true_renders(Prompt.prompt, batch), Prompt, **batch)
    assert at_truth["loss_truth"] == 0


@pytest.fixture(scope="module")
def score():
    return TruthScoreGuidance(
        {
            "pretrained_model_name_or_path": model_folder("tiny-shapes"),
            "min_step_percent": 0.5,
            "max_step_percent": 0.5,
            "weighting_strategy": "uniform",
        }
    )


def test_the_score_points_from_the_latents_to_the_true_ones(score):
    """e - eps = (alpha / sigma) (z - z_true), whatever noise is drawn."""
    batch = cameras()
    rgb = torch.rand(2, 64, 64, 3, requires_grad=True)
    out = score(rgb, Prompt, **batch)
    (grad,) = torch.autograd.grad(out["loss_truth"], rgb)

    latents, truth = (
        score.asd.teacher.encode(x.permute(0, 3, 1, 2))
        for x in (rgb, true_renders(Prompt.prompt, batch))
    )
    t = torch.tensor([500, 500])
    schedule = score.asd.teacher.schedule
    ratio = schedule.alpha(t, latents) / schedule.sigma(t, latents)
    loss = 0.5 * (ratio * (latents - truth.detach()).square()).sum() / 2
    (expected,) = torch.autograd.grad(loss, rgb)
    torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-6)
    assert out["min_step"] == out["max_step"] == 500


def test_the_score_is_silent_at_the_truth(score):
    batch = cameras()
    out = score(true_renders(Prompt.prompt, batch).requires_grad_(), Prompt, **batch)
    assert float(out["grad_norm"]) < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "a corgi"}, "one object and one colour"),
        ({"moved": 0.05}, "set data.camera_perturb"),
        ({"comp_rgb_bg": None}, "system.stage=coarse or texture"),
        ({"width": 32}, "Set data.width and data.height to one number"),
    ],
)
def test_what_has_no_truth_is_told(change, message):
    batch = cameras(moved=change.pop("moved", 0.0))
    prompt = change.pop("prompt", "a red mug")
    with pytest.raises(UserError, match=message):
        true_renders(prompt, batch | change)


def test_another_model_has_no_true_score(folders):
    with pytest.raises(UserError, match="is another model"):
        TruthScoreGuidance({"pretrained_model_name_or_path": str(folders["epsilon"])})
