"""A ball seen by threestudio's cameras, with the depth and opacity that a renderer would give."""

import pytest
import torch

from threestudio_asd.distill import Views
from threestudio_asd.scene.cameras import camera_batch, orbit_positions

RADIUS = 0.7


def ball(rays_o, rays_d, radius=RADIUS):
    """(depth times opacity, opacity), each (B, H, W, 1), of an opaque ball around the origin."""
    middle = -(rays_o * rays_d).sum(-1, keepdim=True)
    inside = radius**2 - (rays_o.square().sum(-1, keepdim=True) - middle**2)
    opacity = (inside > 0).float()
    return opacity * (middle - inside.clamp_min(0).sqrt()), opacity


@pytest.fixture
def seen():
    """Builds threestudio's batch for a ball seen from azimuths in degrees."""

    def build(*azimuths, elevation=10.0, distance=2.2, fovy=45.0, resolution=64):
        n = len(azimuths)
        angles = torch.full((n,), elevation), torch.tensor(azimuths)
        distances = torch.full((n,), distance)
        positions = orbit_positions(*angles, distances)
        batch = camera_batch(
            positions=positions,
            targets=torch.zeros(n, 3),
            up=torch.tensor([[0.0, 0.0, 1.0]]).expand(n, 3),
            fovy_deg=torch.full((n,), fovy),
            elevation_deg=angles[0],
            azimuth_deg=angles[1],
            distances=distances,
            light_positions=positions,
            height=resolution,
            width=resolution,
        )
        depth, opacity = ball(batch["rays_o"], batch["rays_d"])
        return {**batch, "depth": depth, "opacity": opacity}

    return build


@pytest.fixture
def views(seen):
    """As ``seen``, for a noising."""
    return lambda *azimuths, **options: Views.of(seen(*azimuths, **options))
