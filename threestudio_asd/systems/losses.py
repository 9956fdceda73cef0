"""Regularisers of the coarse (NeRF) stage, as threestudio's systems define them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def sparsity_loss(opacity: Float[Tensor, "*B 1"]) -> Float[Tensor, ""]:
    """mean sqrt(opacity^2 + 0.01): pulls every ray towards empty space."""
    return (opacity.square() + 0.01).sqrt().mean()


def opaque_loss(opacity: Float[Tensor, "*B 1"]) -> Float[Tensor, ""]:
    """Binary entropy of the opacity in nats: pulls every ray to 0 or 1, against fog."""
    p = opacity.clamp(1e-3, 1 - 1e-3)
    return (torch.special.entr(p) + torch.special.entr(1 - p)).mean()


def orientation_loss(
    weights: Float[Tensor, "N 1"],
    normal: Float[Tensor, "N 3"],
    t_dirs: Float[Tensor, "N 3"],
    opacity: Float[Tensor, "*B 1"],
) -> Float[Tensor, ""]:
    """Normals that face away from the camera, squared and weighted by visibility, per visible ray.

    (Ref-NeRF, arXiv:2112.03907, eq. 11; DreamFusion, arXiv:2209.14988.)
    """
    facing_away = (normal * t_dirs).sum(-1, keepdim=True).clamp_min(0.0)
    visible = (opacity > 0).sum().clamp_min(1)
    return (weights.detach() * facing_away.square()).sum() / visible


def z_variance_loss(
    z_variance: Float[Tensor, "*B 1"], opacity: Float[Tensor, "*B 1"]
) -> Float[Tensor, ""]:
    """Mean depth variance of the rays with opacity above 0.5 (HiFA, arXiv:2305.18766)."""
    seen = opacity > 0.5
    return (z_variance * seen).sum() / seen.sum().clamp_min(1)


def eikonal_loss(sdf_grad: Float[Tensor, "*N 3"]) -> Float[Tensor, ""]:
    """mean (|grad f| - 1)^2: keeps a field f a signed distance (Gropp et al. 2020,
    arXiv:2002.10099, eq. 2)."""
    return (torch.linalg.vector_norm(sdf_grad, dim=-1) - 1.0).square().mean()


def convexity_loss(normals: Float[Tensor, "B H W 3"], resolution: int) -> Float[Tensor, ""]:
    """How much the surface bends inwards, by a picture of its normals.

        -mean (left x right)_z - mean (below x above)_z

    over neighbours in the picture at ``resolution`` pixels a side, at least 2. (SDI,
    arXiv:2405.15891, as its code has it: of the picture, whose colours are (n + 1) / 2 times the
    opacity.)
    """
    size = (resolution, resolution)
    rows = F.interpolate(normals.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False)
    small = rows.permute(0, 2, 3, 1)
    across = torch.linalg.cross(small[:, :, :-1], small[:, :, 1:])
    upwards = torch.linalg.cross(small[:, 1:], small[:, :-1])
    return -(across[..., 2].mean() + upwards[..., 2].mean())
