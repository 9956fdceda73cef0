"""Where a data module of random cameras puts the point light of each."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.scene.cameras import Draws


def near_camera(
    positions: Float[Tensor, "B 3"],
    distances: Float[Tensor, "B"],
    perturb: float,
    draws: Draws,
) -> Float[Tensor, "B 3"]:
    """Direction normal around the camera position with standard deviation ``perturb``
    (DreamFusion, arXiv:2209.14988, section 3.2)."""
    return distances[:, None] * F.normalize(positions + perturb * draws.randn(3), dim=-1)


def above_camera(
    positions: Float[Tensor, "B 3"],
    distances: Float[Tensor, "B"],
    perturb: float,
    draws: Draws,
) -> Float[Tensor, "B 3"]:
    """Within 60 degrees of the camera direction, as seen from the origin; ignores ``perturb``."""
    z = F.normalize(positions, dim=-1)
    x = F.normalize(torch.stack([z[:, 1], -z[:, 0], torch.zeros_like(z[:, 0])], dim=-1), dim=-1)
    y = F.normalize(torch.linalg.cross(z, x, dim=-1), dim=-1)
    azimuth = math.pi * (2 * draws.rand() - 1)
    elevation = math.pi / 6 + math.pi / 3 * draws.rand()
    along_x, along_y = elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin()
    local = torch.stack([along_x, along_y, elevation.sin()], dim=-1)
    return distances[:, None] * torch.einsum("bk,kbi->bi", local, torch.stack([x, y, z]))


LIGHT_STRATEGIES = {"dreamfusion": near_camera, "magic3d": above_camera}
