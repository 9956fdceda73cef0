"""A batch's pictures as the teacher's latents."""

import copy
import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.noising import Views
from threestudio_asd.errors import UserError
from threestudio_asd.teachers.base import Teacher


def encoded(teacher: Teacher, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
    """Latents of images in [0, 1] of any size, resized to the teacher's own; differentiable."""
    size = (teacher.image_size,) * 2
    if images.shape[-2:] != size:
        images = F.interpolate(images, size, mode="bilinear", align_corners=False)
    return teacher.encode(images)


@torch.no_grad()
def encoded_mean(teacher: Teacher, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
    """:func:`encoded`, of an encoder that draws from a posterior the posterior's mean."""
    if hasattr(teacher, "posterior"):
        teacher = copy.copy(teacher)
        teacher.posterior = "mean"
    return encoded(teacher, images)


def as_latents(
    teacher: Teacher, pictures: Float[Tensor, "B H W c"], are_latents: bool
) -> Float[Tensor, "B C h w"]:
    """Of images in [0, 1], or of latents that a system gives as it gives images.

    Raises:
        UserError: ``are_latents``, and the teacher's have another number of channels.
    """
    pictures = pictures.permute(0, 3, 1, 2)
    if not are_latents:
        return encoded(teacher, pictures)
    channels, *size = teacher.latent_shape
    if pictures.shape[1] != channels:
        raise UserError(f"The teacher's latents have {channels} channels; got {pictures.shape[1]}.")
    return F.interpolate(pictures.float(), size, mode="bilinear", align_corners=False)


def views_of(teacher: Teacher, batch: dict[str, Any], are_latents: bool) -> Views:
    """The batch's cameras, with the latents of the originals of an edit where it has them."""
    views, reference = Views.of(batch), batch.get("reference")
    if reference is None:
        return views
    with torch.no_grad():
        latents = as_latents(teacher, reference, are_latents)
    return dataclasses.replace(views, reference=latents)
