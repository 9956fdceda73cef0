"""Timestep weightings w(t) of the generator's gradient, by config name.

name        w(t)            where from
sds         sigma^2         DreamFusion, ProlificDreamer, ASD's NeRF configs
uniform     1               SJC, CSD
fantasia3d  alpha sigma^2   Fantasia3D (arXiv:2303.13873)
asd         sigma / alpha   ASD's 3DGS configs; an epsilon step in x_0 units
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.schedule import NoiseSchedule, Times, positive
from threestudio_asd.registry import Registry

Weighting = Callable[[Tensor, Tensor], Tensor]
WEIGHTINGS: Registry[Weighting] = Registry("weighting strategy")


def register_weighting(name: str) -> Callable[[Weighting], Weighting]:
    """Decorator: register ``f(alpha^2, sigma^2) -> w``, elementwise and in single precision, under
    ``name``; alpha^2 is positive."""

    def register(function: Weighting) -> Weighting:
        WEIGHTINGS.add(name, function)
        return function

    return register


register_weighting("sds")(lambda signal, noise: noise)
register_weighting("uniform")(lambda signal, noise: torch.ones_like(signal))
register_weighting("fantasia3d")(lambda signal, noise: signal.sqrt() * noise)
register_weighting("asd")(lambda signal, noise: (noise / signal).sqrt())


def weight(name: str, schedule: NoiseSchedule, t: Times, like: Tensor) -> Float[Tensor, "B 1 1 1"]:
    """w(t) with the dtype and device of ``like``, finite at pure noise, too.

    Raises ``NotRegisteredError`` on a wrong name.
    """
    signal, noise = positive(schedule.signal(t)), schedule.noise(t)
    return WEIGHTINGS.get(name)(signal, noise).to(like)
