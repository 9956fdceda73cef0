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
    """One noise for every view: each pixel keeps its own, whatever it shows."""

    def seen(self, views: Views) -> FieldNoise:
        every = self.background.expand(len(views), -1, -1, -1)
        return FieldNoise(every, torch.ones_like(every[:, :1], dtype=torch.bool))


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
