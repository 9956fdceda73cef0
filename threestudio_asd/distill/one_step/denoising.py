"""What the fake network learns: to denoise the generator's pictures.

    E_t[ w(E) |f_f - x|^2 ],    E = sigma_t / alpha_t

Every prediction type's plain loss is such a weight, since an epsilon's error is the x_0's divided
by E; so the network states what it will, and one loss compares pictures.

    name           w(E)             is
    epsilon        1/E^2            |e_f - n|^2; SiD-LSG, also for v networks, and DMD2
    v_prediction   1/E^2 + 1        |v_f - v|^2
    edm            1/E^2 + 1/q^2    SiD, SiDA; EDM's (Karras et al. 2022, arXiv:2206.00364, table
                                    1). q is the data's spread: .5 in pixels; at 1 it is the v loss
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.schedule import NoiseSchedule, Times
from threestudio_asd.distill.weighting import weight
from threestudio_asd.registry import Registry

FakeWeight = Callable[[Tensor, float], Tensor]
FAKE_WEIGHTS: Registry[FakeWeight] = Registry("fake weight")


def register_fake_weight(name: str) -> Callable[[FakeWeight], FakeWeight]:
    """Decorator: register ``f(E, sigma_data) -> w``, elementwise, under ``name``."""

    def register(function: FakeWeight) -> FakeWeight:
        FAKE_WEIGHTS.add(name, function)
        return function

    return register


register_fake_weight("epsilon")(lambda level, sigma_data: level**-2)
register_fake_weight("v_prediction")(lambda level, sigma_data: level**-2 + 1.0)
register_fake_weight("edm")(lambda level, sigma_data: level**-2 + sigma_data**-2)


def noise_level(schedule: NoiseSchedule, t: Times, like: Tensor) -> Float[Tensor, "B 1 1 1"]:
    """E = sigma_t / alpha_t: 2.50 at t = 625 of Stable Diffusion's schedule, where SiD's pixel
    models begin as well."""
    return weight("asd", schedule, t, like)


def denoising(f_fake: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
    """|f_f - x|^2 of each item, without its weight; x is data here."""
    return (f_fake - x.detach()).square().sum(dim=(1, 2, 3))
