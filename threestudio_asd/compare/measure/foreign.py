"""A mesh from a file beside the truth of the embedded world: the same cameras, light and judge."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.scene.foreign.mesh import ForeignMesh
from threestudio_asd.scene.foreign.views import seen
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.tiny.judge import load_judge
from threestudio_asd.tiny.render import (
    EVAL_DISTANCE,
    EVAL_FOVY,
    EVAL_GREY,
    EVAL_SIZE,
    FIXED_AZIMUTHS,
    FIXED_ELEVATION,
    shade,
)

_FINER = 2  # pixels to a pixel's side, of which the mean is taken


def fixed_views_of(mesh: ForeignMesh, placed: Mesh | None = None) -> Float[Tensor, "8 3 64 64"]:
    """The judge's eight views of a mesh in the world's light, on grey 0.5.

    Args:
        placed: Where it stands; where its file has it by default.
    """
    placed = mesh.in_scene() if placed is None else placed
    cameras = ([float(a) for a in FIXED_AZIMUTHS], FIXED_ELEVATION, EVAL_DISTANCE, EVAL_FOVY)
    found = seen(mesh, placed, *cameras, size=_FINER * EVAL_SIZE)
    to_light = F.normalize(found.eye[:, None, None] - found.position, dim=-1)
    lit = found.albedo * shade(found.normal, to_light)
    image = torch.where(found.mask, lit, torch.tensor(EVAL_GREY)).permute(0, 3, 1, 2)
    return F.avg_pool2d(image, _FINER).clamp(0, 1)


def psnr(
    images: Float[Tensor, "B 3 H W"],
    truth: Float[Tensor, "B 3 H W"],
    where: Float[Tensor, "B 1 H W"],
) -> float:
    """Peak signal-to-noise ratio in decibels, over the pixels that weigh ``where`` in [0, 1]."""
    error = ((images - truth).square() * where).sum() / (3 * where.sum())
    return float(-10 * torch.log10(error))


def opinion(images: Float[Tensor, "8 3 64 64"], object_name: str, color_name: str) -> tuple:
    """The judge's: how many of the views it names right, and the mean probability of the pair."""
    judge = load_judge()
    named = judge.name(images)
    right = sum(pair == (object_name, color_name) for pair in named)
    return right, float(judge.probability(images, object_name, color_name).mean())
