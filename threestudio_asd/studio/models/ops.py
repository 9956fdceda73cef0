"""Small tensor operations that the models share."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError


def cube_bbox(radius: float) -> Float[Tensor, "2 3"]:
    """The corners of the cube of half side ``radius`` around the origin."""
    if not radius > 0:
        raise UserError(f"radius is {radius}; it must be positive.")
    return torch.tensor([[-radius] * 3, [radius] * 3], dtype=torch.float32)


def contract_to_unisphere(
    points: Float[Tensor, "*N 3"], bbox: Float[Tensor, "2 3"], unbounded: bool = False
) -> Float[Tensor, "*N 3"]:
    """Points scaled so that ``bbox`` becomes [0, 1]^3.

    Raises:
        UserError: ``unbounded`` scenes (threestudio's contraction of all space).
    """
    if unbounded:
        raise UserError(
            "unbounded scenes are accepted by threestudio but not implemented on the bundled "
            "host; keep the scene inside geometry.radius."
        )
    return (points - bbox[0]) / (bbox[1] - bbox[0])


def chunk_batch(
    func: Callable[..., Any], chunk_size: int, *tensors: Tensor, **named: Tensor
) -> Any:
    """``func`` over slices of ``chunk_size`` rows of its tensors, results joined along dim 0.

    ``func`` returns a tensor, or a dict of tensors; ``chunk_size <= 0`` means one call.
    """
    rows = len(next(iter((*tensors, *named.values()))))
    if chunk_size <= 0 or rows <= chunk_size:
        return func(*tensors, **named)
    parts = []
    for start in range(0, rows, chunk_size):
        part = slice(start, start + chunk_size)
        parts.append(func(*(t[part] for t in tensors), **{k: t[part] for k, t in named.items()}))
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
