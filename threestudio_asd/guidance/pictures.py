"""Pictures of a step, as teacher and critic see it."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.guidance import classifier_free_guidance
from threestudio_asd.distill.noising import Views
from threestudio_asd.distill.prediction_types import to_x0
from threestudio_asd.guidance.step import Distilled
from threestudio_asd.teachers.base import Teacher


@torch.no_grad()
def pictures(teacher: Teacher, found: Distilled, scale: float, n: int) -> dict[str, Any]:
    """Images (n, H, W, 3) in [0, 1] of the first ``n`` items.

    ``imgs_noisy``: x_t. ``imgs_1step``, ``imgs_1orig``, ``imgs_1orig_lora``: the x_0 that e_y,
    e^s and e_phi imply, as far as the method evaluates them. ``grad``: the gradient's strength, of
    a method that has one.
    """
    said = found.predictions
    x_t, t = said.x_t[:n].detach(), said.t[:n]
    predictions: dict[str, Tensor] = {}
    if "cond" in said:
        predictions["imgs_1step"] = said["cond"]
    if "cond" in said and "null" in said:
        guided = classifier_free_guidance(said["null"], said["cond"], scale)
        predictions["imgs_1orig"] = guided
    if "critic" in said:
        predictions["imgs_1orig_lora"] = said["critic"]
    latents = {"imgs_noisy": x_t} | {
        name: to_x0(teacher.schedule, epsilon[:n], x_t, t, "epsilon")
        for name, epsilon in predictions.items()
    }
    images = {name: teacher.decode(value).permute(0, 2, 3, 1) for name, value in latents.items()}
    if found.grad is not None:
        images["grad"] = _strength(found.grad[:n], images["imgs_noisy"].shape[1:3])
    return images


def evaluation(
    teacher: Teacher, found: Distilled, views: Views, scale: float, n: int
) -> dict[str, Any]:
    """:func:`pictures` of the first ``n`` items, and their captions as ``texts``."""
    levels = [f"t{t:g}" for t in found.predictions.t.tolist()]
    texts = captions(levels, *views.angles)[:n]
    return pictures(teacher, found, scale, n) | {"texts": texts}


def _strength(grad: Float[Tensor, "B C h w"], size: torch.Size) -> Float[Tensor, "B H W 3"]:
    """Mean absolute value over the channels, in grey; white is the largest of the batch."""
    strength = grad.abs().mean(dim=1, keepdim=True)
    strength = strength / strength.amax().clamp_min(1e-12)
    strength = F.interpolate(strength, tuple(size), mode="bilinear", align_corners=False)
    return strength.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)


def captions(
    levels: list[str], elevation: Tensor, azimuth: Tensor, camera_distances: Tensor
) -> list[str]:
    """One for each item: noise level, elevation, azimuth (degrees), distance."""
    views = zip(levels, elevation, azimuth, camera_distances, strict=True)
    return [f"{level}\ne{e:.1f}\na{a:.1f}\nc{c:.2f}" for level, e, a, c in views]
