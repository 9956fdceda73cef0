"""What a noise field is, and the registry of fields."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio_asd.distill.noise_fields import FieldNoise, refreshed
from threestudio_asd.distill.noising import Views
from threestudio_asd.errors import UserError
from threestudio_asd.registry import Registry


class NoiseField(nn.Module, ABC):
    """Standard normal numbers that outlive a step, and what a view shows of them.

    All of its state are buffers: a checkpoint holds them. It draws from torch's global generator,
    which a training seeds in every step: a resumed run goes on with the numbers of a whole one.

    Args:
        latent_shape: (C, H, W) of the noise.
        device: Where the buffers are made.
        fix_background: Where a view shows nothing of the scene, its noise is the field's too, the
            same for a pixel in every view; otherwise fresh in every step.
    """

    background: Float[Tensor, "1 C H W"]

    def __init__(
        self,
        latent_shape: tuple[int, int, int],
        device: torch.device | str,
        fix_background: bool = True,
    ) -> None:
        super().__init__()
        self.latent_shape, self.fix_background = tuple(latent_shape), fix_background
        self.register_buffer("background", torch.randn(1, *self.latent_shape, device=device))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.latent_shape[1:]

    @torch.no_grad()
    def forward(self, x0: Float[Tensor, "B C H W"], views: Views) -> FieldNoise:
        """The field's noise for latents ``x0`` of ``views``, in their dtype; changes nothing.

        Raises:
            UserError: Latents of another shape than the field's, or another number of views.
        """
        if x0.shape[1:] != self.latent_shape:
            raise UserError(
                f"The noise field was made for latents of shape {self.latent_shape}, and these have"
                f" {tuple(x0.shape[1:])}; a field keeps one size for a whole training."
            )
        if len(views) != len(x0):
            raise UserError(f"There are {len(x0)} latents of {len(views)} views; give as many.")
        seen = self.seen(views)
        if self.fix_background:
            seen = seen.over(self.background)
        return FieldNoise(seen.noise.to(x0), seen.held)

    @abstractmethod
    def seen(self, views: Views) -> FieldNoise:
        """What ``views`` show of the field, held where they show the scene."""

    @torch.no_grad()
    def refresh(self, gamma: float) -> None:
        """One step on: the share ``gamma`` in [0, 1] of every buffer is drawn anew; 0 draws
        nothing. Raises UserError for another share."""
        for n in self.buffers() if gamma != 0.0 else ():
            n.copy_(refreshed(n, torch.randn_like(n), gamma))


FIELDS: Registry[Callable[..., NoiseField]] = Registry("noise field")


def register_field(name: str) -> Callable[[type[NoiseField]], type[NoiseField]]:
    """Decorator: register ``(latent_shape, device, **options) -> NoiseField`` under ``name``, by
    which noisings ask for it (``register_noising(..., field=name)``)."""

    def register(made: type[NoiseField]) -> type[NoiseField]:
        FIELDS.add(name, made)
        return made

    return register
