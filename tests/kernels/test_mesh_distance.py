"""Signed distance to meshes whose distance is known in closed form."""

import torch
import trimesh

from threestudio_asd.kernels.mesh_distance import signed_distance


def of(mesh, points):
    vertices = torch.tensor(mesh.vertices, dtype=points.dtype, device=points.device)
    return signed_distance(points, vertices, torch.tensor(mesh.faces, device=points.device))


def test_a_box_is_exact(device):
    points = 3 * torch.rand(5000, 3, device=device) - 1.5
    half = torch.tensor([0.5, 0.75, 1.0], device=device)
    beyond = points.abs() - half
    expected = beyond.clamp(min=0).norm(dim=-1) + beyond.amax(-1).clamp(max=0)
    found = of(trimesh.creation.box(extents=(1, 1.5, 2)), points)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_far_points_and_holes(device):
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    holed = trimesh.Trimesh(ball.vertices, ball.faces[5:])
    points = torch.tensor([[30.0, 40.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.7]], device=device)
    found = of(holed, points)
    expected = torch.tensor([49.5, -0.4, 0.2], device=device)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
