"""Noise that views of a scene share: arithmetic of noise fields, and the noisings that read one.

A fresh draw in every step makes score distillation an average over noise. Flow Score Distillation
(Yan et al. 2024, arXiv:2405.10988) and Consistent Flow Distillation (Yan et al. 2025,
arXiv:2501.05445) let the noise of a render be a function of what it shows, held in a *field* n:

    n   <- sqrt(1 - gamma) n + sqrt(gamma) xi               before a step, xi ~ N(0, I)
    eps  = sqrt_beta n(view) + sqrt(1 - sqrt_beta^2) xi     where the field holds the view, else xi

Both keep a standard normal one. With lambda = sigma / alpha, one n and gamma = 0 the step

    x <- x + (lambda' - lambda)(G - n)      from lambda to lambda' < lambda, G the target's epsilon

is DDIM's (Song et al. 2020, arXiv:2010.02502) of the sample x + lambda n: distillation then follows
the teacher's probability flow, started at n.

The fields themselves, which have a state, are :mod:`threestudio_asd.fields`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from threestudio_asd.distill.noising import NoisyBatch, Predict, Views, register_noising
from threestudio_asd.distill.schedule import Times
from threestudio_asd.errors import UserError

# Noisings, each named like the field that it reads.
FIXED, WORLD_MAP, SURFACE = "fixed-noise", "world-map", "surface-noise"


@dataclass(frozen=True, eq=False)
class FieldNoise:
    """What a field holds of a batch of views.

    Args:
        noise: Standard normal in every entry.
        held: Where the field has noise for a pixel.
    """

    noise: Float[Tensor, "B C H W"]
    held: Bool[Tensor, "B 1 H W"]

    def over(self, behind: Float[Tensor, "#B C H W"]) -> "FieldNoise":
        """With ``behind`` where the field holds nothing."""
        return FieldNoise(self.noise.where(self.held, behind), torch.ones_like(self.held))

    def mixed(self, fresh: Float[Tensor, "B C H W"], sqrt_beta: float) -> Float[Tensor, "B C H W"]:
        """sqrt_beta n + sqrt(1 - sqrt_beta^2) xi where n is held, xi = ``fresh`` elsewhere.

        Raises:
            UserError: ``sqrt_beta`` is above 1; 0 or less is the fresh noise alone.
        """
        if sqrt_beta > 1.0:
            raise UserError(
                f"The setting sqrt_beta, a noise field's share of the noise, is {sqrt_beta}; "
                "choose a number from 0 (none) to 1."
            )
        share = max(sqrt_beta, 0.0)
        together = share * self.noise + (1.0 - share**2) ** 0.5 * fresh
        return together.where(self.held, fresh)


def refreshed(n: Float[Tensor, "*n"], xi: Float[Tensor, "*n"], gamma: float) -> Float[Tensor, "*n"]:
    """sqrt(1 - gamma) n + sqrt(gamma) xi.

    Raises:
        UserError: ``gamma`` is not in [0, 1].
    """
    if not 0.0 <= gamma <= 1.0:
        raise UserError(
            f"The setting noise_refresh, the share of a noise field that is renewed in a step, is "
            f"{gamma}; choose a number from 0 to 1."
        )
    return (1.0 - gamma) ** 0.5 * n + gamma**0.5 * xi


def world_map_size(size: tuple[int, int], theta: float) -> tuple[int, int]:
    """(H_w, W_w) of a map around the scene of which a view of ``size`` (H, W) shows ``theta``
    degrees: 180 / theta times H, 360 / theta times W."""
    return int(180 / theta * size[0]), int(360 / theta * size[1])


def world_map_windows(
    world: Float[Tensor, "C Hs Ws"],
    elevation: Float[Tensor, " B"],
    azimuth: Float[Tensor, " B"],
    around: tuple[int, int],
    size: tuple[int, int],
) -> Float[Tensor, "B C H W"]:
    """The windows of ``size`` that views at these angles (degrees) show of a map.

    A window begins at row -elevation H_w / 180 mod H_w and column azimuth W_w / 360 mod W_w: it
    moves as the middle of an object's front does. What reaches beyond the stored (Hs, Ws) begins
    again at 0.

    Args:
        world: The map; of the size ``around``, or larger where its edge repeats its beginning.
        around: (H_w, W_w): see :func:`world_map_size`.
    """
    rows, columns = (
        ((degrees.double() * whole / turn).remainder(whole).long()[:, None]
         + torch.arange(side, device=world.device)) % stored
        for degrees, whole, turn, side, stored in zip(
            (-elevation, azimuth), around, (180, 360), size, world.shape[1:], strict=True
        )
    )  # fmt: skip
    return world[:, rows[:, :, None], columns[:, None, :]].transpose(0, 1)


def shows_object(
    opacity: Float[Tensor, "B Hr Wr 1"], size: tuple[int, int]
) -> Bool[Tensor, "B 1 H W"]:
    """Where a render's mean opacity in a pixel of ``size`` is at least one half."""
    return F.adaptive_avg_pool2d(opacity.movedim(-1, 1), size) >= 0.5


Field = Callable[[Tensor, Views], FieldNoise]


@runtime_checkable
class FieldPredict(Predict, Protocol):
    """What a step hands to a noising that names a field: ``predict.field(x0, views)`` is the
    field's noise for the latents ``x0`` of these views. Reading it changes nothing."""

    field: Field | None


def field_noise(
    x0: Float[Tensor, "B C H W"], t: Times, views: Views, predict: FieldPredict
) -> NoisyBatch:
    """Noise of a field, mixed with fresh noise by the setting ``sqrt_beta``.

    Raises:
        UserError: The step has no field.
    """
    if predict.field is None:
        raise UserError(
            "This noising reads a noise field and its step has none; make one with "
            "fields.NoiseFields and hand it over as DistillationStep(..., field=...)."
        )
    fresh = predict.draws.normal(x0)
    noise = predict.field(x0, views).mixed(fresh, predict.settings["sqrt_beta"])
    return NoisyBatch.of(predict.schedule, x0, t, noise)


# The share that is renewed in each step: CFD's for a surface, nothing where the flow is to be kept.
for _name, _gamma in {FIXED: 0.0, WORLD_MAP: 0.0, SURFACE: 1e-4}.items():
    register_noising(_name, field=_name, settings={"noise_refresh": _gamma, "sqrt_beta": 1.0})(
        field_noise
    )
