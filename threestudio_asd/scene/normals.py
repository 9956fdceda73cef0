"""Outward unit normals of a density field: the direction in which it falls fastest."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Density = Callable[[Float[Tensor, "*N 3"]], Float[Tensor, "*N 1"]]


def finite_difference_normal(
    density_at: Density,
    points: Float[Tensor, "*N 3"],
    density: Float[Tensor, "*N 1"],
    eps: float,
    radius: float,
) -> Float[Tensor, "*N 3"]:
    """Forward differences with step ``eps``: three more densities per point."""
    ahead = _shifted(points, eps, radius)
    return F.normalize(density - density_at(ahead)[..., 0], dim=-1)


def laplacian_normal(
    density_at: Density, points: Float[Tensor, "*N 3"], eps: float, radius: float
) -> Float[Tensor, "*N 3"]:
    """Central differences with step ``eps``: six more densities per point."""
    both = torch.stack([_shifted(points, -eps, radius), _shifted(points, eps, radius)])
    behind, ahead = density_at(both)[..., 0]
    return F.normalize(behind - ahead, dim=-1)


def analytic_normal(
    density: Float[Tensor, "*N 1"], points: Float[Tensor, "*N 3"], create_graph: bool
) -> Float[Tensor, "*N 3"]:
    """Through autograd; ``create_graph`` lets a loss on normals reach the parameters."""
    (gradient,) = torch.autograd.grad(
        density.sum(), points, create_graph=create_graph, retain_graph=True
    )
    return F.normalize(-gradient, dim=-1)


def _shifted(points: Float[Tensor, "*N 3"], eps: float, radius: float) -> Float[Tensor, "*N 3 3"]:
    """Each point moved by ``eps`` along x, y and z, but not out of the scene's cube."""
    offsets = eps * torch.eye(3, device=points.device, dtype=points.dtype)
    return (points[..., None, :] + offsets).clamp(-radius, radius)
