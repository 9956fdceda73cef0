"""Fields that follow the camera alone: one noise for all views, and a map around the scene."""

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.noise_fields import (
    FIXED,
    WORLD_MAP,
    FieldNoise,
    shows_object,
    world_map_size,
    world_map_windows,
)
from threestudio_asd.distill.noising import Views
from threestudio_asd.errors import UserError
from threestudio_asd.fields.base import NoiseField, register_field


@register_field(FIXED)
class FixedField(NoiseField):
    """One noise for every view: each pixel keeps its own, whatever it shows.

    Args:
        particles: How many results are optimised at the same time, each of which has its own noise;
            with 1 all of them share one.

    Raises:
        UserError: ``particles`` is below 1, or a batch does not say which of them it shows, or
            shows others.
    """

    def __init__(
        self,
        latent_shape: tuple[int, int, int],
        device: torch.device | str,
        fix_background: bool = True,
        particles: int = 1,
    ) -> None:
        super().__init__(latent_shape, device, fix_background)
        if particles < 1:
            raise UserError(f"noise_field.particles is {particles}; give at least 1.")
        if particles > 1:
            others = torch.randn(particles - 1, *self.latent_shape, device=device)
            self.register_buffer("others", others)

    def seen(self, views: Views) -> FieldNoise:
        noise = self.background.expand(len(views), -1, -1, -1)
        if hasattr(self, "others"):
            noise = self._own(views)
        return FieldNoise(noise, torch.ones_like(noise[:, :1], dtype=torch.bool))

    def _own(self, views: Views) -> Float[Tensor, "B C H W"]:
        every = torch.cat([self.background, self.others])
        shown = views.particles
        if shown is None or int(shown.max()) >= len(every):
            has = "does not say which it shows" if shown is None else f"shows number {shown.max()}"
            raise UserError(
                f"The noise field has a noise for each of {len(every)} particles, counted from 0, "
                f"and this batch {has}; use asd-2d-system and set "
                "system.guidance.noise_field.particles to its n_particles."
            )
        return every[shown]


@register_field(WORLD_MAP)
class WorldMapField(NoiseField):
    """A map around the scene, in elevation and azimuth, of which a view shows a window (FSD).

    The noise shifts with the camera, as the middle of an object's front does, but not with its
    sides, which turn away. The map has no edge: it repeats after 360 degrees of azimuth and 180 of
    elevation.

    Args:
        theta: Degrees of a window. A surface at radius r moves with the map if theta, in radians,
            is 2 d tan(fovy / 2) / r for cameras at distance d.

    Raises:
        UserError: ``theta`` is not in (0, 180].
    """

    world: Float[Tensor, "C Hw Ww"]

    def __init__(
        self,
        latent_shape: tuple[int, int, int],
        device: torch.device | str,
        fix_background: bool = True,
        theta: float | int = 180.0,
    ) -> None:
        super().__init__(latent_shape, device, fix_background)
        if not 0.0 < theta <= 180.0:
            raise UserError(
                f"theta, the degrees of a noise map that one view shows, is {theta}; choose more "
                "than 0 and at most 180."
            )
        around = world_map_size(self.size, float(theta))
        self.register_buffer("world", torch.randn(latent_shape[0], *around, device=device))

    def seen(self, views: Views) -> FieldNoise:
        if views.opacity is None:
            raise UserError(
                "The noise field 'world-map' tells object and background by the render's opacity, "
                "and this batch has none; use a 3D system, or for images the method fsd-2d, whose "
                "noising is fixed-noise."
            )
        around = tuple(self.world.shape[1:])
        angles = views.elevation, views.azimuth
        noise = world_map_windows(self.world, *angles, around, self.size)
        return FieldNoise(noise, shows_object(views.opacity, self.size))
