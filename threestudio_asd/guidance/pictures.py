"""What teacher and critic make of a step, as pictures for a person to look at."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.guidance import guided
from threestudio_asd.distill.methods import Method
from threestudio_asd.distill.schedule import to_x0
from threestudio_asd.distill.scores import Scores
from threestudio_asd.teachers.base import Teacher


@torch.no_grad()
def pictures(
    method: Method,
    teacher: Teacher,
    scores: Scores,
    grad: Float[Tensor, "B C h w"],
    scale: float,
    n: int,
) -> dict[str, Any]:
    """Images (n, H, W, 3) in [0, 1] of the first ``n`` items.

    ``imgs_noisy``: x_t. ``imgs_1step``, ``imgs_1orig``, ``imgs_1orig_lora``: the x_0 that e_y,
    e^s and e_phi imply, as far as the method evaluates them. ``grad``: the gradient's strength.
    """
    x_t, t = scores.x_t[:n], scores.t[:n]
    predictions: dict[str, Tensor] = {}
    if "cond" in method.needs:
        predictions["imgs_1step"] = scores.cond
    if {"cond", "null"} <= set(method.needs):
        predictions["imgs_1orig"] = guided(scores, scale)
    if scores.critic is not None:
        predictions["imgs_1orig_lora"] = scores.critic
    latents = {"imgs_noisy": x_t} | {
        name: to_x0(teacher.schedule, epsilon[:n], x_t, t, "epsilon")
        for name, epsilon in predictions.items()
    }
    images = {name: teacher.decode(value).permute(0, 2, 3, 1) for name, value in latents.items()}
    return images | {"grad": _strength(grad[:n], images["imgs_noisy"].shape[1:3])}


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
