"""From clean latents to the noisy batch that the networks are asked about: a column of the table.

A noising is ``(x0, t, views, predict) -> NoisyBatch``. ``predict(name, x_t, t)`` is what the
teacher says, without gradient, at latents of the noising's own making, and ``predict.schedule`` its
forward process; noise that views share comes from a field (``noise_fields``). Register your own in
any file that is imported before its method is looked up::

    @register_noising("antithetic")
    def antithetic(x0, t, views, predict):
        half = torch.randn_like(x0[: len(x0) // 2])
        return NoisyBatch.of(predict.schedule, x0, t, torch.cat([half, -half]))
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.distill.prediction_types import converted
from threestudio_asd.distill.schedule import NoiseSchedule, Times
from threestudio_asd.distill.settings import Settings
from threestudio_asd.errors import UserError
from threestudio_asd.registry import Registry


@dataclass(frozen=True, eq=False)
class Views:
    """The cameras of a batch and what they see, as far as a method may ask for them.

    Args:
        elevation, azimuth: In degrees.
        camera_distances: From the origin.
        c2w: Camera to world.
        mvp_mtx: World to clip coordinates.
        reference: Latents of the picture that each render is an edit of.
        rays_o, rays_d: Origins and directions of the pixels' rays.
        depth: Along ``rays_d``, times the opacity, as a volume renderer sums it up.
        opacity: In [0, 1].
        particles: Which of the results that are optimised at the same time each item shows; None
            where there is but one.
    """

    elevation: Float[Tensor, " B"]
    azimuth: Float[Tensor, " B"]
    camera_distances: Float[Tensor, " B"]
    c2w: Float[Tensor, "B 4 4"] | None = None
    mvp_mtx: Float[Tensor, "B 4 4"] | None = None
    reference: Float[Tensor, "B C h w"] | None = None
    rays_o: Float[Tensor, "B H W 3"] | None = None
    rays_d: Float[Tensor, "B H W 3"] | None = None
    depth: Float[Tensor, "B H W 1"] | None = None
    opacity: Float[Tensor, "B H W 1"] | None = None
    particles: Int[Tensor, " B"] | None = None

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> "Views":
        """From threestudio's batch of cameras and, where a system adds them, its render's depth and
        opacity, of which no gradient is kept."""
        cameras = (batch[name] for name in ("elevation", "azimuth", "camera_distances"))
        further = ("c2w", "mvp_mtx", "rays_o", "rays_d", "depth", "opacity", "particles")
        found = {name: batch[name].detach() for name in further if batch.get(name) is not None}
        return cls(*cameras, **found)

    def __len__(self) -> int:
        return len(self.elevation)

    @property
    def angles(self) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Elevation, azimuth and distance: what chooses the words of a view."""
        return self.elevation, self.azimuth, self.camera_distances


@dataclass(frozen=True, eq=False)
class NoisyBatch:
    """Renders at one draw of time and noise.

    Args:
        x0: Clean latents.
        x_t: alpha_t x_0 + sigma_t noise, or what a noising has in its place.
        t: Times.
        noise: The eps of x_t.
        extras: What a noising found besides, by the names that it declared (``adds``); terms read
            them as they read predictions.
    """

    x0: Float[Tensor, "B C H W"]
    x_t: Float[Tensor, "B C H W"]
    t: Times
    noise: Float[Tensor, "B C H W"]
    extras: Mapping[str, Float[Tensor, "B C H W"]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        schedule: NoiseSchedule,
        x0: Float[Tensor, "B C H W"],
        t: Times,
        noise: Float[Tensor, "B C H W"],
    ) -> "NoisyBatch":
        """x_t = alpha_t x_0 + sigma_t noise."""
        return cls(x0, schedule.add_noise(x0, noise, t), t, noise)

    @classmethod
    def reaching(
        cls,
        schedule: NoiseSchedule,
        x0: Float[Tensor, "B C H W"],
        x_t: Float[Tensor, "B C H W"],
        t: Times,
        extras: Mapping[str, Float[Tensor, "B C H W"]] = {},
    ) -> "NoisyBatch":
        """Where x_t came about in another way: its noise is (x_t - alpha_t x_0) / sigma_t."""
        noise = converted(schedule, x0, x_t, t, "sample", "epsilon")
        return cls(x0, x_t, t, noise, extras)

    def at(self, place: str | None) -> Float[Tensor, "B C H W"]:
        """The latents that a prediction is asked about: those of an extra, or x_t for None."""
        return self.x_t if place is None else self.extras[place]

    def detached(self) -> "NoisyBatch":
        """The same values without a gradient to the renders."""
        extras = {name: extra.detach() for name, extra in self.extras.items()}
        x0, x_t = self.x0.detach(), self.x_t.detach()
        return NoisyBatch(x0, x_t, self.t, self.noise.detach(), extras)


class Draws:
    """The random numbers of a noising; a subclass may repeat recorded ones."""

    def normal(self, like: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Standard normal."""
        return torch.randn_like(like)

    def uniform(self, n: int, device: torch.device) -> Float[Tensor, " n"]:
        """From [0, 1)."""
        return torch.rand(n, device=device)


@runtime_checkable
class Predict(Protocol):
    """Questions to the teacher, and where a noising's random numbers come from."""

    schedule: NoiseSchedule
    settings: Settings
    draws: Draws
    views_at_once: int
    """How many items, one after the other, share t as views of one scene."""
    scale: float
    """The guidance scale s of the step."""

    def __call__(
        self, name: str, x_t: Float[Tensor, "N C H W"], t: Times, items: Tensor | None = None
    ) -> Float[Tensor, "N C H W"]:
        """The prediction ``name`` (``null``, ``cond``, ...) as epsilon.

        Args:
            items: Which of the batch's items x_t is about; all of them, in order, by default.
        """

    def together(
        self,
        names: Sequence[str],
        x_t: Float[Tensor, "N C H W"],
        t: Times,
        items: Tensor | None = None,
    ) -> dict[str, Float[Tensor, "N C H W"]]:
        """Several predictions from one call of the network."""


Noise = Callable[[Tensor, Tensor, Views, Predict], NoisyBatch]


@dataclass(frozen=True)
class Noising:
    """A registered noising.

    Args:
        make: The function.
        asks: Names that it hands to ``predict``.
        adds: Names of the extras that it finds.
        settings: The numbers that it reads (``predict.settings``), with their defaults.
        field: Name of the noise field that it reads (``predict.field``); it then declares the
            setting ``noise_refresh``, too, the share of the field that is renewed before a step.
    """

    make: Noise
    asks: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    field: str | None = None


NOISINGS: Registry[Noising] = Registry("noising")


def register_noising(
    name: str,
    asks: tuple[str, ...] = (),
    adds: tuple[str, ...] = (),
    settings: Mapping[str, Any] | None = None,
    field: str | None = None,
) -> Callable[[Noise], Noise]:
    """Decorator: register a noising under ``name``; see :class:`Noising`."""

    def register(function: Noise) -> Noise:
        NOISINGS.add(name, Noising(function, asks, adds, settings or {}, field))
        return function

    return register


@register_noising("gaussian")
def gaussian(x0: Float[Tensor, "B C H W"], t: Times, views: Views, predict: Predict) -> NoisyBatch:
    """Fresh noise for every item, as in training a diffusion model."""
    return NoisyBatch.of(predict.schedule, x0, t, predict.draws.normal(x0))


def check_noisy(noisy: NoisyBatch, noising: Noising, name: str) -> NoisyBatch:
    """``noisy``, which a user's function may have made; raises UserError if an extra that it
    declared is missing or something has another shape than its x_0."""
    if missing := [extra for extra in noising.adds if extra not in noisy.extras]:
        raise UserError(f"The noising '{name}' declares {', '.join(missing)} and did not add it.")
    made = {"x_t": noisy.x_t, "noise": noisy.noise, **noisy.extras}
    shapes = {what: tuple(x.shape) for what, x in made.items() if x.shape != noisy.x0.shape}
    if len(noisy.t) != len(noisy.x0):
        shapes["t"] = tuple(noisy.t.shape)
    if shapes:
        listed = ", ".join(f"{what} of shape {shape}" for what, shape in shapes.items())
        raise UserError(f"The noising '{name}' made {listed} of x_0 {tuple(noisy.x0.shape)}.")
    return noisy
