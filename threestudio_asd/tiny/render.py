"""Ground-truth renderer of tiny-shapes: sphere tracing, soft shading, antialiased by supersampling.

Cameras follow threestudio: z up, azimuth 0 on +x, angles in degrees, fovy vertical.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threestudio_asd.scene.cameras import camera_rays, look_at, orbit_positions
from threestudio_asd.tiny.scenes import color, normal, sdf

FIXED_AZIMUTHS = tuple(range(0, 360, 45))
FIXED_ELEVATION = 15.0
EVAL_DISTANCE = 2.5
EVAL_FOVY = 45.0
EVAL_SIZE = 64
EVAL_GREY = 0.5

Batch = Float[Tensor, "B"]


def sphere_trace(
    name: str, origin: Float[Tensor, "N 3"], direction: Float[Tensor, "N 3"], steps: int = 40
) -> tuple[Bool[Tensor, "N"], Float[Tensor, "N 3"]]:
    """Mask of rays that hit object ``name`` and their surface points (undefined where missed)."""
    # Enter at the unit ball that holds every scene; rays that miss it are never traced.
    b = (origin * direction).sum(-1)
    disc = b**2 - (origin.square().sum(-1) - 1.0)
    live = torch.nonzero(disc > 0).squeeze(-1)
    points = origin.clone()
    mask = torch.zeros(len(origin), dtype=torch.bool, device=origin.device)
    t = -b[live] - disc[live].sqrt()
    far = -b[live] + disc[live].sqrt()
    for _ in range(steps):
        p = origin[live] + t[:, None] * direction[live]
        d = sdf(name, p)
        hit = d < 2e-3
        points[live[hit]] = p[hit]
        mask[live[hit]] = True
        keep = ~hit & (t + d < far)
        live, t, far = live[keep], (t + d)[keep], far[keep]
        if len(live) == 0:
            break
    return mask, points


def camera_to_world(azimuth: Batch, elevation: Batch, distance: Batch) -> Float[Tensor, "B 4 4"]:
    """Cameras that look at the origin; angles in degrees."""
    position = orbit_positions(elevation, azimuth, distance)
    up = position.new_tensor([0.0, 0.0, 1.0]).expand_as(position)
    return look_at(position, torch.zeros_like(position), up)


def shade(normal: Float[Tensor, "*N 3"], to_light: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 1"]:
    """The world's light: a part from everywhere, one from the sky (+z), one from the lamp; of unit
    vectors."""
    lambert = (normal * to_light).sum(-1, keepdim=True).clamp(min=0)
    sky = 0.5 + 0.5 * normal[..., 2:]
    return 0.40 + 0.28 * sky + 0.32 * lambert


def render(
    name: str,
    color_name: str,
    azimuth: Batch,
    elevation: Batch,
    distance: Batch,
    fovy: Batch,
    background: Float[Tensor, "B 3"],
    light_offset: Float[Tensor, "B 3"] | None = None,
    normal_map: bool = False,
    size: int = EVAL_SIZE,
    supersample: int = 2,
) -> tuple[Float[Tensor, "B 3 size size"], Float[Tensor, "B 1 size size"]]:
    """RGB in [0, 1] and coverage in [0, 1] of one object from ``B`` cameras.

    ``normal_map`` gives world-space normals as ``(n + 1) / 2`` on black, threestudio's rasteriser
    convention. ``light_offset`` moves the head light away from the camera (scene units).
    """
    c2w = camera_to_world(azimuth, elevation, distance)
    position = c2w[:, :3, 3]
    hi = size * supersample
    rays = camera_rays(c2w, torch.deg2rad(fovy), hi, hi)
    flat_o, flat_d = (x.reshape(-1, 3) for x in rays)
    count = len(position)
    mask, points = sphere_trace(name, flat_o, flat_d)
    surface = points[mask]
    n = normal(name, surface)
    if normal_map:
        shaded, background = (n + 1) / 2, torch.zeros_like(background)
    else:
        light = position if light_offset is None else position + light_offset
        to_light = torch.repeat_interleave(light, flat_d.shape[0] // count, dim=0)[mask] - surface
        lit = shade(n, torch.nn.functional.normalize(to_light, dim=-1))
        shaded = color(name, color_name, surface) * lit
    image = background[:, None].expand(count, flat_d.shape[0] // count, 3).reshape(-1, 3).clone()
    image[mask] = shaded
    image = image.reshape(count, hi, hi, 3).permute(0, 3, 1, 2)
    coverage = mask.reshape(count, 1, hi, hi).float()
    pool = torch.nn.functional.avg_pool2d
    return pool(image, supersample).clamp(0, 1), pool(coverage, supersample)


def fixed_views(
    name: str, color_name: str, size: int = EVAL_SIZE
) -> tuple[Float[Tensor, "8 3 size size"], Float[Tensor, "8 1 size size"]]:
    """The eight views every result is judged from: azimuth 0..315, elevation 15, grey 0.5."""
    count = len(FIXED_AZIMUTHS)
    full = lambda value: torch.full((count,), float(value))  # noqa: E731
    return render(
        name,
        color_name,
        torch.tensor(FIXED_AZIMUTHS, dtype=torch.float32),
        full(FIXED_ELEVATION),
        full(EVAL_DISTANCE),
        full(EVAL_FOVY),
        torch.full((count, 3), EVAL_GREY),
        size=size,
    )


def distance_for(fovy: Batch, extent: Batch) -> Batch:
    """Camera distance at which a sphere of radius ``1 / extent`` spans the image's height."""
    return extent / torch.tan(fovy * (math.pi / 360))
