"""Losses of meshes in closed form: their Laplacian and the consistency of their normals."""

import math

import numpy as np
import pytest
import torch
import trimesh
from balls import from_trimesh

from threestudio_asd.scene.mesh import Mesh


def plane(n=5, shear=0.0):
    """An (n + 1)^2 grid in the plane z = shear x, whose inner vertices all look alike."""
    index = torch.arange((n + 1) ** 2).view(n + 1, n + 1)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = torch.stack([a, b, c, a, c, d], dim=-1).view(-1, 3)
    xy = torch.cartesian_prod(torch.arange(n + 1.0), torch.arange(n + 1.0))
    return Mesh(torch.cat([xy, shear * xy[:, :1]], dim=-1), faces)


def test_edges_are_those_of_the_mesh():
    box = trimesh.creation.box()
    edges = from_trimesh(box).edges
    assert edges.tolist() == sorted(np.unique(np.sort(box.edges, axis=1), axis=0).tolist())


def test_laplacian_of_known_meshes():
    # Around an inner vertex of a plane the steps cancel; a regular tetrahedron has three equal
    # ones from each corner, whose sum is four times the corner's distance from the centre.
    tetrahedron = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
    assert Mesh(tetrahedron, faces).laplacian().item() == pytest.approx(4 * math.sqrt(3))
    assert Mesh(2 * tetrahedron, faces).laplacian().item() == pytest.approx(8 * math.sqrt(3))
    mesh = plane(6)
    assert mesh.laplacian().item() * 49 == pytest.approx(_laplacian_by_hand(mesh))
    inner = 25 / 49
    assert mesh.laplacian().item() < (1 - inner) * 3  # nothing from the inner vertices


def _laplacian_by_hand(mesh):
    neighbours = {i: set() for i in range(len(mesh.v_pos))}
    for face in mesh.t_pos_idx.tolist():
        for i in face:
            neighbours[i] |= set(face) - {i}
    v = mesh.v_pos.double().numpy()
    return sum(np.linalg.norm(sum(v[i] - v[j] for j in near)) for i, near in neighbours.items())


def test_normal_consistency_of_known_meshes():
    assert plane(shear=0.7).normal_consistency().item() == pytest.approx(0, abs=1e-6)
    # Normals of a regular tetrahedron's corners point outwards: all pairs at cos = -1/3.
    tetrahedron = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
    assert Mesh(tetrahedron, faces).normal_consistency().item() == pytest.approx(4 / 3)
    sphere = from_trimesh(trimesh.creation.icosphere(subdivisions=3))
    angle = 2 * np.arcsin((sphere.v_pos[sphere.edges].diff(dim=1).norm(dim=-1) / 2).numpy())
    expected = (1 - np.cos(angle)).mean()
    assert sphere.normal_consistency().item() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("term", ["normal_consistency", "laplacian"])
def test_gradients_of_the_losses(term):
    made = from_trimesh(trimesh.creation.icosphere(subdivisions=1))
    generator = torch.Generator().manual_seed(0)
    v_pos = made.v_pos.double()
    v_pos = v_pos + 0.1 * torch.randn(v_pos.shape, generator=generator).double()

    def loss(v_pos):
        return getattr(Mesh(v_pos, made.t_pos_idx), term)()

    assert torch.autograd.gradcheck(loss, (v_pos.requires_grad_(),))
