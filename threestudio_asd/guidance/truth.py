"""``truth-pixels-guidance`` and ``truth-score-guidance``: what a perfect teacher would reach.

In the embedded world every camera's true picture is known. Handed to the same systems, it shows how
much of a result's faults is the generator's (pixels) and the encoder's (score), not a method's.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd import host, tiny
from threestudio_asd.distill.noising import Views
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.asd import StableDiffusionASDGuidance
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.teachers.analytic import gaussian_epsilon
from threestudio_asd.teachers.base import Teacher
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.tiny.evaluation import parse_prompt
from threestudio_asd.tiny.render import render


@torch.no_grad()
def true_renders(prompt: str, batch: dict[str, Any]) -> Float[Tensor, "B H W 3"]:
    """The prompt's scene from the cameras of ``batch`` before its ``comp_rgb_bg``, in [0, 1].

    Args:
        batch: threestudio's batch of cameras, elevation and azimuth in degrees.

    Raises:
        UserError: A prompt that is not of the embedded world, cameras that do not look at the
            origin, images that are not square, or no colours to compare with.
    """
    name, shade = parse_prompt(prompt)
    elevation, azimuth = batch["elevation"], batch["azimuth"]
    camera_distances = batch["camera_distances"]
    behind = batch.get("comp_rgb_bg")
    if behind is None:
        raise UserError(
            "A truth guidance compares colours; use system.stage=coarse or texture with it."
        )
    if batch["height"] != batch["width"]:
        raise UserError(
            f"The true renders are square; got {batch['width']} x {batch['height']} pixels. "
            "Set data.width and data.height to one number."
        )
    _check_cameras(elevation, azimuth, camera_distances, batch["c2w"])
    black = torch.zeros(len(azimuth), 3, device=azimuth.device)
    fovy = torch.rad2deg(batch["fovy"])
    view = (azimuth, elevation, camera_distances, fovy)
    image, coverage = (
        x.permute(0, 2, 3, 1) for x in render(name, shade, *view, black, size=batch["height"])
    )
    return image + (1 - coverage) * behind


def _check_cameras(
    elevation: Float[Tensor, " B"],
    azimuth: Float[Tensor, " B"],
    distances: Float[Tensor, " B"],
    c2w: Float[Tensor, "B 4 4"],
) -> None:
    el, az = torch.deg2rad(elevation), torch.deg2rad(azimuth)
    backward = torch.stack((el.cos() * az.cos(), el.cos() * az.sin(), el.sin()), dim=-1)
    right = torch.stack((-az.sin(), az.cos(), torch.zeros_like(az)), dim=-1)
    told = torch.cat((right, backward, distances[:, None] * backward), dim=-1)
    seen = c2w[:, :3, [0, 2, 3]].mT.flatten(1)
    if not torch.allclose(told, seen, atol=1e-3):
        raise UserError(
            "The true renders know cameras that look at the origin; set data.camera_perturb, "
            "data.center_perturb and data.up_perturb to 0."
        )


@host.register("truth-pixels-guidance")
class TruthPixelsGuidance(host.BaseModule):
    """Half the squared error to the true render of each camera, summed over an image."""

    @dataclass
    class Config(host.BaseModule.Config):
        pass

    cfg: Config

    def forward(
        self, rgb: Float[Tensor, "B H W 3"], prompt_utils: Any, **batch: Any
    ) -> dict[str, Any]:
        """``loss_truth`` for renders in [0, 1], per image."""
        apart = rgb - true_renders(prompt_utils.prompt, batch)
        return {"loss_truth": 0.5 * apart.square().sum() / len(rgb)}


class _TrueScores(Teacher):
    """Knows x_0: a condition is the true latents themselves, and e = (x_t - alpha x_0) / sigma."""

    def __init__(self, codec: Teacher) -> None:
        self.codec, self.schedule = codec, codec.schedule
        self.image_size, self.latent_shape = codec.image_size, codec.latent_shape

    def epsilon(
        self,
        x_t: Float[Tensor, "B C h w"],
        t: Int[Tensor, " B"],
        condition: Condition,
    ) -> Float[Tensor, "B C h w"]:
        nothing = x_t.new_zeros(1, 1, 1, 1)
        return gaussian_epsilon(self.schedule, x_t, t, condition.tokens.view_as(x_t), nothing)

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        return self.codec.encode(images)

    def decode(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        return self.codec.decode(latents)


@host.register("truth-score-guidance")
class TruthScoreGuidance(host.BaseModule):
    """SDS whose teacher knows the true latents of each camera: the exact score of the true render.

    Through the embedded model's encoder, whose posterior's mean both pictures take.
    """

    @dataclass
    class Config(host.BaseModule.Config):
        pretrained_model_name_or_path: str = "${asd_model:tiny-shapes}"
        """An embedded model; its encoder alone is used."""
        min_step_percent: Any = 0.02
        max_step_percent: Any = 0.98
        """Fractions of the schedule between which t is drawn; numbers or schedules."""
        weighting_strategy: str = "sds"
        grad_clip: Any = None

    cfg: Config

    def configure(self) -> None:
        keys = ("pretrained_model_name_or_path", "min_step_percent", "max_step_percent")
        shared = {key: self.cfg[key] for key in (*keys, "weighting_strategy", "grad_clip")}
        self.asd = StableDiffusionASDGuidance({**shared, "method": "sds"})
        codec = self.asd.teacher
        if not tiny.is_embedded(codec.folder):
            raise UserError(
                f"truth-score-guidance knows the embedded world alone, and "
                f"'{self.cfg.pretrained_model_name_or_path}' is another model; set "
                "system.guidance.pretrained_model_name_or_path to ${asd_model:tiny-shapes}."
            )
        codec.posterior = "mean"
        taught = {0: replace(self.asd.step, teacher=_TrueScores(codec))}
        self.asd.steps, self.asd.step = taught, taught[0]

    def forward(
        self, rgb: Float[Tensor, "B H W 3"], prompt_utils: Any, **batch: Any
    ) -> dict[str, Any]:
        """``loss_truth`` (its gradient with respect to the latents is w(t) (e - eps) / B) for
        renders in [0, 1], and scalars for the log."""
        truth = true_renders(prompt_utils.prompt, batch)
        with torch.no_grad():
            latents = self.asd.encode_images(truth.permute(0, 3, 1, 2)).flatten(2)
        known = Condition(latents)
        text = Conditions({"null": known, "cond": known}, known)
        return self.asd.distil(rgb, text, Views.of(batch), 1.0).losses("loss_truth")
