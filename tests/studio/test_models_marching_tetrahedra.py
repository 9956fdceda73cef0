"""Marching tetrahedra: the grid, convergence, closed surfaces, gradients."""

import math

import numpy as np
import pytest
import torch
import trimesh

from threestudio_asd.scene.marching_tetrahedra import (
    EDGES,
    body_centred_grid,
    cells_per_axis,
    marching_tetrahedra,
    tetrahedral_grid,
)


def faces_per_edge(faces):
    pairs = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(-1).values
    return pairs.unique(dim=0, return_counts=True)[1]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_grid_fills_the_cube(n):
    made = body_centred_grid(n)
    assert (len(made.vertices), len(made.tetrahedra)) == ((n + 1) ** 3 + n**3, 12 * n**3)
    a, b, c, d = made.vertices.double()[made.tetrahedra].unbind(1)
    volumes = (torch.linalg.cross(b - a, c - a) * (d - a)).sum(-1) / 6
    torch.testing.assert_close(volumes, torch.full_like(volumes, 1 / (12 * n**3)))


def test_grid_is_conforming():
    """Each triangle belongs to two tetrahedra, on the boundary to one."""
    made = body_centred_grid(3)
    triples = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])
    triangles = made.tetrahedra[:, triples].reshape(-1, 3).sort(-1).values
    unique, count = triangles.unique(dim=0, return_counts=True)
    corners = made.vertices[unique]
    outer = ((corners == 0).all(1) | (corners == 1).all(1)).any(-1)
    assert torch.equal(count, torch.where(outer, 1, 2))


def test_grid_is_as_fine_as_threestudios():
    assert cells_per_axis(128) == 51
    made = tetrahedral_grid(32)
    assert made is tetrahedral_grid(32)
    ends = made.vertices[made.tetrahedra][:, torch.tensor(EDGES)]
    assert 1.5 / 32 < (ends[:, :, 0] - ends[:, :, 1]).norm(dim=-1).mean() < 2.5 / 32


def test_a_sphere_converges_in_second_order():
    radius, center = 0.3137, torch.tensor([0.49, 0.52, 0.5])
    errors = []
    for n in (8, 16, 32):
        made = body_centred_grid(n)
        level = (made.vertices - center).norm(dim=-1) - radius
        surface = trimesh.Trimesh(*marching_tetrahedra(made.vertices, level, made.tetrahedra))
        area, contents = 4 * math.pi * radius**2, 4 / 3 * math.pi * radius**3
        errors.append([abs(surface.area - area), abs(surface.volume - contents)])
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert orders.min() >= 1.8


@pytest.mark.parametrize("seed", range(4))
def test_random_distances_make_closed_surfaces(seed):
    made = body_centred_grid(6)
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(len(made.vertices), generator=generator)
    if seed == 3:
        level = level.round()  # zeros in plenty: the surface passes through vertices
    level[((made.vertices == 0) | (made.vertices == 1)).any(-1)] = 1.0
    vertices, faces = marching_tetrahedra(made.vertices, level, made.tetrahedra)
    assert len(faces) > 1000
    assert (faces_per_edge(faces) == 2).all()
    assert len(faces.unique()) == len(vertices)
    # Opposite directions on the two faces of each edge: one consistent orientation.
    directed = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    assert len(directed.unique(dim=0)) == len(directed)
    assert to_volume(vertices, faces) > 0


def to_volume(vertices, faces):
    a, b, c = vertices.double()[faces].unbind(1)
    return (torch.linalg.cross(a, b) * c).sum().item() / 6


def test_vertices_lie_where_the_level_is_zero():
    """A level that is linear is met exactly, also between displaced vertices."""
    made = body_centred_grid(4)
    generator = torch.Generator().manual_seed(0)
    vertices = made.vertices + 0.02 * torch.randn(made.vertices.shape, generator=generator)
    normal = torch.tensor([0.3, -0.5, 0.8])
    found, faces = marching_tetrahedra(vertices, vertices @ normal - 0.31, made.tetrahedra)
    torch.testing.assert_close(found @ normal, torch.full((len(found),), 0.31))
    a, b, c = found[faces].unbind(1)
    assert (torch.linalg.cross(b - a, c - a) @ normal).min() > -1e-7  # towards the positive side


def test_gradients_equal_finite_differences():
    made = body_centred_grid(2)
    generator = torch.Generator().manual_seed(3)
    vertices = made.vertices.double()
    level = torch.randn(len(vertices), generator=generator).double()
    level = level + 0.1 * level.sign()  # no sign changes within the differences' reach

    def surface(vertices, level):
        return marching_tetrahedra(vertices, level, made.tetrahedra)[0]

    inputs = (vertices.requires_grad_(), level.requires_grad_())
    assert torch.autograd.gradcheck(surface, inputs)


def test_no_crossing_gives_no_triangles():
    made = body_centred_grid(2)
    vertices, faces = marching_tetrahedra(
        made.vertices, torch.ones(len(made.vertices)), made.tetrahedra
    )
    assert (vertices.shape, faces.shape) == ((0, 3), (0, 3))
