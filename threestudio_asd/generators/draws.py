"""The random numbers of a step, which a generator seeded with (seed, step) determines.

They are drawn on the CPU, so that every device trains on the same ones.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.one_step.settings import OneStepSettings
from threestudio_asd.distill.one_step.table import OneStepMethod
from threestudio_asd.distill.schedule import NoiseSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.generators.step import FakeDraw, GeneratorDraw, Noise


@runtime_checkable
class CaptionSource(Protocol):
    """Where captions come from."""

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "B L D"]: ...


@runtime_checkable
class RealSource(Protocol):
    """Where real pictures come from, as latents with their captions."""

    def draw(
        self, count: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B L D"]]: ...


def seeded(seed: int, step: int) -> torch.Generator:
    """Of one step; a resumed run draws what an uninterrupted one would have drawn."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


@dataclass(frozen=True, eq=False)
class Draws:
    """What a row's steps draw.

    Args:
        method, settings: The row and its numbers.
        schedule: Of the networks.
        latent_shape: (C, h, w).
        captions: Of the generated pictures.
        reals: Of rows that need them.
        device: Where the draws are wanted.

    Raises:
        UserError: The row needs real pictures and there are none.
    """

    method: OneStepMethod
    settings: OneStepSettings
    schedule: NoiseSchedule
    latent_shape: tuple[int, int, int]
    captions: CaptionSource
    reals: RealSource | None
    device: torch.device

    def __post_init__(self) -> None:
        if self.method.needs_reals and self.reals is None:
            raise UserError(
                f"The method '{self.method.name}' learns from real pictures and there are none: "
                "name a source of them (reals.type), or a method without an adversary (sid, dmd)."
            )

    def for_generator(self, generator: torch.Generator) -> GeneratorDraw:
        """A step of the generator."""
        text = self._placed(self.captions.draw(self.settings.batch, generator))
        z, score = self._normal(generator), self._noise(self.settings.score_range, generator)
        apart = self._apart(generator)
        return GeneratorDraw(z, text, score, apart)

    def for_fake(self, generator: torch.Generator) -> FakeDraw:
        """A step of the fake network and the discriminator. Where real and generated pictures share
        their noise they share the captions, too: those of the real ones."""
        settings, real = self.settings, {}
        if self.method.needs_reals:
            latents, said = self.reals.draw(settings.batch, generator)
            real = {"real": self._placed(latents), "real_text": self._placed(said)}
        if real and self.method.discriminator.shares_noise:
            text = real["real_text"]
        else:
            text = self._placed(self.captions.draw(settings.batch, generator))
        z, denoise = self._normal(generator), self._noise(settings.fake_range, generator)
        dropped = None
        if settings.guides_fake and settings.caption_dropout:
            shares = torch.rand(settings.batch, generator=generator)
            dropped = self._placed(shares < settings.caption_dropout)
        apart, apart_real = self._apart(generator), self._apart(generator)
        return FakeDraw(z, text, denoise, dropped, apart=apart, apart_real=apart_real, **real)

    def _apart(self, generator: torch.Generator) -> Noise | None:
        discriminator = self.method.discriminator
        if discriminator is None or discriminator.shares_noise:
            return None
        return self._noise(self.settings.adversarial_range, generator)

    def _noise(self, edges: tuple[float, float], generator: torch.Generator) -> Noise:
        times = self.schedule.between(*edges).sample(self.settings.batch, generator=generator)
        return Noise(self._placed(times), self._normal(generator))

    def _normal(self, generator: torch.Generator) -> Tensor:
        shape = self.settings.batch, *self.latent_shape
        return self._placed(torch.randn(shape, generator=generator))

    def _placed(self, x: Any) -> Tensor:
        return x.to(self.device)
