"""What noise fields show of a turning ball: the figure and the numbers of docs/noise-fields.md.

    python benchmarks/noise_fields.py [--picture docs/images/noise-fields.png] [--fields 60]

Prints a table: the correlation, at one point of the ball, of the noise of two views that are some
degrees apart, over --fields fields and all points that both views show.
"""

import argparse
import time

import imageio.v2 as imageio
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.noise_fields import FIXED, SURFACE, WORLD_MAP
from threestudio_asd.distill.noising import Views
from threestudio_asd.fields import FIELDS
from threestudio_asd.fields.base import NoiseField
from threestudio_asd.scene.cameras import camera_batch, orbit_positions

RADIUS, DISTANCE, FOVY, ELEVATION = 0.7, 2.0, 45.0, 0.0
SIZE = 47
# Between them the marked spot moves by eight pixels.
SHOWN = (-15.49, 0.0, 15.49)
APART = (0.0, 2.0, 5.0, 10.0, 20.0, 40.0)
# Elevation and azimuth of the marked spot on the ball; pixels to each side of it in a cutting.
SPOT, CUT = (0.0, 0.0), 5
NAMES = (FIXED, WORLD_MAP, SURFACE)


def ball(azimuths: list[float]) -> tuple[Views, Float[Tensor, "B H W 3"]]:
    """Views of an opaque ball from these azimuths, and where each pixel sees it (NaN beside it)."""
    n = len(azimuths)
    angles = torch.full((n,), ELEVATION), torch.tensor(azimuths)
    distances = torch.full((n,), DISTANCE)
    positions = orbit_positions(*angles, distances)
    batch = camera_batch(
        positions=positions,
        targets=torch.zeros(n, 3),
        up=torch.tensor([[0.0, 0.0, 1.0]]).expand(n, 3),
        fovy_deg=torch.full((n,), FOVY),
        elevation_deg=angles[0],
        azimuth_deg=angles[1],
        distances=distances,
        light_positions=positions,
        height=SIZE,
        width=SIZE,
    )
    origin, direction = batch["rays_o"], batch["rays_d"]
    middle = -(origin * direction).sum(-1, keepdim=True)
    inside = RADIUS**2 - (origin.square().sum(-1, keepdim=True) - middle**2)
    opacity = (inside > 0).float()
    depth = middle - inside.clamp_min(0).sqrt()
    points = (origin + depth * direction).where(opacity > 0, torch.nan)
    return Views.of({**batch, "depth": depth * opacity, "opacity": opacity}), points


def made(name: str) -> NoiseField:
    """A field of one channel whose map, if it is one, moves with the middle of the ball's front."""
    theta = np.rad2deg(2 * DISTANCE * np.tan(np.deg2rad(FOVY / 2)) / RADIUS)
    options = {"theta": min(float(theta), 180.0)} if name == WORLD_MAP else {}
    return FIELDS.get(name)((1, SIZE, SIZE), "cpu", **options)


def noise(field: NoiseField, views: Views) -> Float[Tensor, "B H W"]:
    return field(torch.zeros(len(views), 1, SIZE, SIZE), views).noise[:, 0]


def correlation(name: str, degrees: float, fields: int) -> float:
    """Of the noise of two views at one point of the ball, over the middle of what both show."""
    views, points = ball([0.0, degrees])
    clip = F.pad(points[0], (0, 1), value=1.0) @ views.mvp_mtx[1].mT
    at = clip[..., :2] / clip[..., 3:]  # of the second picture, whose pixels are read between
    front = views.c2w[:, :3, 2]  # towards the cameras
    facing = torch.stack([(points[0] / RADIUS) @ side for side in front]).amin(0)
    both = facing > 0.6
    total = square_0 = square_1 = 0.0
    for _ in range(fields):
        one, two = noise(made(name), views)
        there = F.grid_sample(two[None, None], at[None], mode="nearest", align_corners=False)
        a, b = one[both], there[0, 0][both]
        total, square_0 = total + (a * b).sum(), square_0 + a.square().sum()
        square_1 = square_1 + b.square().sum()
    return (total / (square_0 * square_1).sqrt()).item()


def colored(noise: Float[Tensor, "B H W"], views: Views) -> Float[Tensor, "B H W 3"]:
    """Noise from -2 (blue) over 0 (white) to 2 (red), pale beside the ball."""
    share = (noise / 2).clamp(-1, 1)[..., None]
    red, blue = torch.tensor([0.70, 0.09, 0.17]), torch.tensor([0.13, 0.40, 0.67])
    full = 1 - share.abs() * (1 - torch.where(share > 0, red, blue))
    return torch.where(views.opacity > 0, full, 0.75 + 0.25 * full)


def picture(path: str) -> None:
    """Fields from top to bottom, azimuths from left to right; then the ball's marked spot, cut out
    of these pictures and larger."""
    views, _ = ball([*SHOWN])
    elevation, azimuth = torch.tensor([SPOT[0]]), torch.tensor([SPOT[1]])
    spot = F.pad(RADIUS * orbit_positions(elevation, azimuth, torch.ones(1))[0], (0, 1), value=1.0)
    clip = views.mvp_mtx @ spot
    at = ((clip[:, :2] / clip[:, 3:] + 1) / 2 * SIZE).floor().int().tolist()
    rows = []
    for name in NAMES:
        torch.manual_seed(0)
        images = colored(noise(made(name), views), views)
        cuts = [
            image[y - CUT : y + CUT + 1, x - CUT : x + CUT + 1]
            for image, (x, y) in zip(images, at, strict=True)
        ]
        for image, (x, y) in zip(images, at, strict=True):
            frame = torch.zeros(SIZE, SIZE, dtype=torch.bool)
            frame[y - CUT - 1 : y + CUT + 2, x - CUT - 1 : x + CUT + 2] = True
            frame[y - CUT : y + CUT + 1, x - CUT : x + CUT + 1] = False
            image[frame] = 0.0
        parts = [*(enlarged(x, 4) for x in images), *(enlarged(x, 12) for x in cuts)]
        rows.append(torch.cat(parts, 1))
    imageio.imwrite(path, (torch.cat(rows) * 255).round().byte().numpy())


def enlarged(image: Float[Tensor, "H W 3"], factor: int) -> Float[Tensor, "H2 W2 3"]:
    """Square pixels, in a white frame that makes pictures of one height."""
    large = image.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    gap = (4 * SIZE + 9 - len(large)) // 2
    return F.pad(large, (0, 0, 4, 4, gap, gap), value=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", help="a PNG to write")
    parser.add_argument("--fields", type=int, default=60)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.picture:
        picture(args.picture)
    print("| degrees apart | " + " | ".join(f"{degrees:g}" for degrees in APART) + " |")
    print("|---|" + "---|" * len(APART))
    for name in NAMES:
        found = [correlation(name, degrees, args.fields) for degrees in APART]
        print(f"| `{name}` | " + " | ".join(f"{value:.2f}" for value in found) + " |")
    views, _ = ball([0.0])
    for name in NAMES:
        field = made(name)
        noise(field, views)
        begin = time.process_time()
        for _ in range(20):
            noise(field, views)
        print(f"{name}: {(time.process_time() - begin) / 20 * 1e3:.1f} ms of CPU time for a view")


if __name__ == "__main__":
    main()
