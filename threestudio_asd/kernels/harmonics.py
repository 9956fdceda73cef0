"""Real spherical harmonics, in plain torch: at most nine cheap terms."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

MAX_DEGREE = 3


def spherical_harmonics(x: Float[Tensor, "N 3"], degree: int) -> Float[Tensor, "N C"]:
    """The first degree^2 real spherical harmonics of directions d, given as x = (d + 1) / 2.

    Order and signs as in tiny-cuda-nn (Condon-Shortley phase included).

    Args:
        degree: 1, 2 or 3; the caller checks it.
    """
    x, y, z = (2 * x - 1).unbind(-1)
    a, b = math.sqrt(3 / (4 * math.pi)), math.sqrt(15 / (4 * math.pi))
    basis = [
        torch.full_like(x, math.sqrt(1 / (4 * math.pi))),
        *(-a * y, a * z, -a * x),
        *(b * x * y, -b * y * z, math.sqrt(5 / (16 * math.pi)) * (3 * z * z - 1)),
        *(-b * x * z, b / 2 * (x * x - y * y)),
    ]
    return torch.stack(basis[: degree**2], dim=-1)
