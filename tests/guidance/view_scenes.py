"""Batches of several views of each scene."""

import torch

from threestudio_asd.scene.cameras import look_at, orbit_positions

V = 4
WIDTH, TOKENS = 24, 5  # of the embeddings that the fixture ``prompt`` makes


def batch(count, turned=20.0):
    """threestudio's cameras of ``count`` scenes of V views, each scene from a height of its own."""
    scene = torch.arange(count).repeat_interleave(V)
    elevation, distance = 10.0 + 15.0 * scene, 1.5 + 0.2 * scene
    azimuth = turned + 30.0 * scene + 360.0 / V * torch.arange(V).repeat(count)
    positions = orbit_positions(elevation, azimuth, distance)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(positions)
    c2w = look_at(positions, torch.zeros_like(positions), up)
    return {
        "elevation": elevation,
        "azimuth": azimuth,
        "camera_distances": distance,
        "c2w": c2w,
        "mvp_mtx": torch.eye(4).expand(count * V, 4, 4),
    }


def latents(count):
    """Renders that are latents already, (count * V, 8, 8, 4)."""
    return torch.randn(count * V, 8, 8, 4, generator=torch.Generator().manual_seed(5))
