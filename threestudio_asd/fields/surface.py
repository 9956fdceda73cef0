"""A field on the scene's surface: its noise sticks to what a view shows."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from threestudio_asd.distill.noise_fields import SURFACE, FieldNoise
from threestudio_asd.distill.noising import Views
from threestudio_asd.errors import UserError
from threestudio_asd.fields.base import NoiseField, register_field
from threestudio_asd.kernels.surface_noise import MAX_LOG2_ROWS, surface_noise

# CFD's: less than this a ray does not say where a surface is.
LEAST_OPACITY = 0.1
# Bilinear weight of the rays around a corner that must see something: of four equal ones, two.
LEAST_SHARE = 0.4


@register_field(SURFACE)
class SurfaceField(NoiseField):
    """Texels of a world-space grid; a pixel adds up those that the surface which it shows runs
    through (:mod:`threestudio_asd.kernels.surface_noise`).

    Args:
        texel_size: Side of a texel, in scene units. By default 1 / (2 H): a pixel of a threestudio
            camera covers one and a half to four along each of its sides.
        log2_texels: Of the table's rows; by default 256 for each pixel, about three times as many
            as the surface of a unit sphere has texels of the default size.
        side: Samples of a pixel along each of its sides.

    Raises:
        UserError: A size that is not positive, or a table too large.
    """

    texels: Float[Tensor, "T C"]

    def __init__(
        self,
        latent_shape: tuple[int, int, int],
        device: torch.device | str,
        fix_background: bool = True,
        texel_size: float | int | None = None,
        log2_texels: int | None = None,
        side: int = 8,
    ) -> None:
        super().__init__(latent_shape, device, fix_background)
        channels, height, width = self.latent_shape
        self.texel_size = 1.0 / (2 * height) if texel_size is None else texel_size
        bits = (256 * height * width - 1).bit_length() if log2_texels is None else log2_texels
        self.side = side
        if not self.texel_size > 0 or side < 1:
            raise UserError(
                "texel_size and side of a noise field on a surface must be positive; got "
                f"{self.texel_size} and {side}."
            )
        if not 1 <= bits <= MAX_LOG2_ROWS:
            raise UserError(
                f"log2_texels of a noise field on a surface is {bits}; choose 1 to {MAX_LOG2_ROWS}."
            )
        self.register_buffer("texels", torch.randn(2**bits, channels, device=device))

    def seen(self, views: Views) -> FieldNoise:
        corners, covered = surface_corners(views, self.size)
        args = self.texels, corners.to(self.texels), covered, self.texel_size, self.side
        noise, counts = surface_noise(*args)
        return FieldNoise(noise, (counts > 0)[:, None])


def surface_corners(
    views: Views, size: tuple[int, int]
) -> tuple[Float[Tensor, "B H1 W1 3"], Bool[Tensor, "B H W"]]:
    """What the corners of the (H, W) pixels of ``size`` see, and the pixels of which all do.

    A ray sees the point o + d depth / opacity where its opacity is above ``LEAST_OPACITY``, and
    nothing else; a corner, which lies between the rays, the mean of what those around it see, if
    these have ``LEAST_SHARE`` of the bilinear weight.

    Raises:
        UserError: The views have no rays, depth or opacity.
    """
    parts = {"rays_o": views.rays_o, "rays_d": views.rays_d}
    parts |= {"depth": views.depth, "opacity": views.opacity}
    if missing := [name for name, part in parts.items() if part is None]:
        raise UserError(
            "The noise field 'surface-noise' lies on the surface that a render shows, and this "
            f"batch has no {', '.join(missing)}. For images choose cfd-2d, or another method whose "
            "noising is fixed-noise; for a scene a renderer that gives depth and opacity: "
            "nerf-volume-renderer, or the bundled host's nvdiff-rasterizer (threestudio's own "
            "gives no depth)."
        )
    points = views.rays_o + views.rays_d * (views.depth / views.opacity.clamp_min(1e-5))
    sees = (views.opacity > LEAST_OPACITY) & points.isfinite().all(-1, keepdim=True)
    rays = torch.cat([points.where(sees, 0.0), sees.to(points)], dim=-1).movedim(-1, 1)
    y, x = (torch.linspace(-1, 1, n + 1, dtype=rays.dtype, device=rays.device) for n in size)
    at = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).expand(len(rays), -1, -1, -1)
    found = F.grid_sample(rays, at, padding_mode="border", align_corners=False).movedim(1, -1)
    share = found[..., 3:]
    whole = (share[..., 0] > LEAST_SHARE).float()[:, None]
    covered = -F.max_pool2d(-whole, 2, stride=1)[:, 0] > 0.5  # the least of the four
    return found[..., :3] / share.clamp_min(1e-5), covered
