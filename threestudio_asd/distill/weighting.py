"""Timestep weightings w(t) of the generator's gradient, by config name.

name        w(t)                    where from
sds         sigma_t^2 = 1 - abar    DreamFusion, ProlificDreamer, ASD's NeRF configs
uniform     1                       SJC, CSD
fantasia3d  sqrt(abar) (1 - abar)   Fantasia3D (arXiv:2303.13873)
asd         sqrt((1 - abar)/abar)   ASD's 3DGS configs; sigma/alpha, an epsilon step in x_0 units
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.distill.registry import Registry
from threestudio_asd.distill.schedule import NoiseSchedule, positive

Weighting = Callable[[Tensor], Tensor]
WEIGHTINGS: Registry[Weighting] = Registry("weighting strategy")


def register_weighting(name: str) -> Callable[[Weighting], Weighting]:
    """Decorator: register ``f(abar) -> w``, elementwise and in single precision, under ``name``."""

    def register(function: Weighting) -> Weighting:
        WEIGHTINGS.add(name, function)
        return function

    return register


register_weighting("sds")(lambda abar: 1.0 - abar)
register_weighting("uniform")(torch.ones_like)
register_weighting("fantasia3d")(lambda abar: abar.sqrt() * (1.0 - abar))
register_weighting("asd")(lambda abar: ((1.0 - abar) / abar).sqrt())


def weight(
    name: str, schedule: NoiseSchedule, t: Int[Tensor, " B"], like: Tensor
) -> Float[Tensor, "B 1 1 1"]:
    """w(t) with the dtype and device of ``like``, finite at pure noise (abar = 0), too.

    Raises ``NotRegisteredError`` on a wrong name.
    """
    return WEIGHTINGS.get(name)(positive(schedule.abar(t, like.float()))).to(like)
