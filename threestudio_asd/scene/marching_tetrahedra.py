"""Marching tetrahedra on a body-centred cubic grid, differentiable in level and vertices.

The grid has the vertices of n^3 cubes and their centres. Each square between two cubes makes four
tetrahedra, of one of its sides and both centres; a square on the boundary makes two, of its halves
and the centre. All tetrahedra inside are congruent, and any two share a whole face, edge or
vertex, or nothing: the surface has no cracks.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Edges of a tetrahedron, as pairs of its corners.
EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


@dataclass(frozen=True)
class TetrahedralGrid:
    """Vertices in [0, 1]^3 and tetrahedra, corners in positive orientation."""

    vertices: Float[Tensor, "Nv 3"]
    tetrahedra: Int[Tensor, "Nt 4"]


def cells_per_axis(resolution: int) -> int:
    """Cubes along each axis for threestudio's ``isosurface_resolution``.

    Its grids have edges of about 2 / resolution; 0.4 cubes per step make those here as long and
    the vertices as many: 273,259 at 128, where threestudio's file has 277,410.
    """
    return max(1, round(0.4 * resolution))


@lru_cache(maxsize=2)
def tetrahedral_grid(resolution: int) -> TetrahedralGrid:
    """The grid for ``isosurface_resolution``, on the CPU, made once."""
    return body_centred_grid(cells_per_axis(resolution))


def body_centred_grid(n: int) -> TetrahedralGrid:
    """``n``^3 cubes: (n + 1)^3 + n^3 vertices and 12 n^3 tetrahedra."""
    corner = torch.arange((n + 1) ** 3).view([n + 1] * 3)
    centre = (n + 1) ** 3 + torch.arange(n**3).view([n] * 3)
    tetrahedra = [part for axis in range(3) for part in _across(axis, corner, centre)]
    ticks = torch.arange(n + 1, dtype=torch.float64)
    at_corners = torch.cartesian_prod(ticks, ticks, ticks)
    at_centres = torch.cartesian_prod(ticks[:-1], ticks[:-1], ticks[:-1]) + 0.5
    vertices = torch.cat([at_corners, at_centres]).float() / n
    return TetrahedralGrid(vertices, _oriented(vertices, torch.cat(tetrahedra)))


def _across(axis: int, corner: Tensor, centre: Tensor) -> list[Tensor]:
    """The tetrahedra around the squares that are perpendicular to ``axis``."""
    order = [axis, *(a for a in range(3) if a != axis)]
    corner, centre = corner.permute(order), centre.permute(order)
    # The four corners of each square, once around: (n + 1, n, n).
    a, b = corner[:, :-1, :-1], corner[:, 1:, :-1]
    c, d = corner[:, 1:, 1:], corner[:, :-1, 1:]
    sides = ((a, b), (b, c), (c, d), (d, a))
    made = [(p[1:-1], q[1:-1], centre[:-1], centre[1:]) for p, q in sides]
    for square, cube in ((0, 0), (-1, -1)):
        middle = centre[cube]
        made += [(a[square], b[square], c[square], middle)]
        made += [(a[square], c[square], d[square], middle)]
    return [torch.stack(corners, dim=-1).reshape(-1, 4) for corners in made]


def _oriented(vertices: Tensor, tetrahedra: Tensor) -> Tensor:
    a, b, c, d = vertices[tetrahedra].unbind(1)
    volume = (torch.linalg.cross(b - a, c - a, dim=-1) * (d - a)).sum(-1)
    swapped = tetrahedra[:, [1, 0, 2, 3]]
    return torch.where(volume[:, None] > 0, tetrahedra, swapped)


def marching_tetrahedra(
    vertices: Float[Tensor, "Nv 3"], level: Float[Tensor, "Nv"], tetrahedra: Int[Tensor, "Nt 4"]
) -> tuple[Float[Tensor, "V 3"], Int[Tensor, "F 3"]]:
    """The surface where the ``level``, linear in each tetrahedron, is zero; negative is inside.

    One vertex lies on each edge whose ends differ in sign (zero counts as inside); gradients reach
    ``vertices`` and ``level``. Triangles are counter-clockwise seen from outside; every edge off
    the grid's boundary belongs to exactly two.
    """
    with torch.no_grad():
        inside = level <= 0
        corner_inside = inside[tetrahedra]
        count = corner_inside.sum(-1)
        active = _where((count > 0) & (count < 4))
        tables = _tables(level.device)
        code = (corner_inside.index_select(0, active) * tables.bits).sum(-1)
        ends = tetrahedra.index_select(0, active)[:, tables.edges].sort(-1).values
        crossed = _where(inside[ends[..., 0]] != inside[ends[..., 1]])
        # One number for an edge: a sort of these is far faster than one of pairs.
        key = (ends[..., 0] * len(vertices) + ends[..., 1]).flatten()
        unique, index = torch.unique(key.index_select(0, crossed), return_inverse=True)
        vertex_of_edge = torch.full_like(key, -1).index_copy_(0, crossed, index)
        faces = _triangles(tables.triangles[code], vertex_of_edge.view(-1, len(EDGES)))
        first, second = unique // len(vertices), unique % len(vertices)
    s, t = level[first, None], level[second, None]
    return (vertices[first] * t - vertices[second] * s) / (t - s), faces


def _where(mask: Bool[Tensor, "*S"]) -> Int[Tensor, "K"]:
    """Flat indices of what is true. Rows are taken by them, not by the mask itself, because every
    use of a mask waits for a CUDA device to tell how many there are."""
    return mask.flatten().nonzero()[:, 0]


def _triangles(
    table: Int[Tensor, "M 2 3"], vertex_of_edge: Int[Tensor, "M 6"]
) -> Int[Tensor, "F 3"]:
    """``table``: the up to two triangles of each tetrahedron, by its edges."""
    used = _where(table[..., 0] >= 0)
    edges = table.flatten(0, 1).index_select(0, used)
    return vertex_of_edge[(used // 2)[:, None], edges]


def _table() -> list[list[list[int]]]:
    """By which corners are inside (bit i: corner i): up to two triangles, as edges; -1 is none."""
    none = [-1, -1, -1]
    table = []
    for code in range(16):
        inside = [i for i in range(4) if code >> i & 1]
        fewer = inside if len(inside) < 3 else [i for i in range(4) if i not in inside]
        # Even permutations keep the orientation, so one picture serves all.
        i, j, k, m = next(
            p for p in permutations(range(4)) if _even(p) and {*p[: len(fewer)]} == {*fewer}
        )
        if len(fewer) == 0:
            table.append([none, none])
        elif len(fewer) == 1:
            cut = [_edge(i, j), _edge(i, k), _edge(i, m)]
            table.append([cut if fewer is inside else cut[::-1], none])
        else:
            loop = [_edge(i, k), _edge(i, m), _edge(j, m), _edge(j, k)]
            table.append([loop[:3], [loop[0], *loop[2:]]])
    return table


def _even(permutation: tuple[int, ...]) -> bool:
    pairs = [(a, b) for n, a in enumerate(permutation) for b in permutation[n + 1 :]]
    return sum(a > b for a, b in pairs) % 2 == 0


def _edge(a: int, b: int) -> int:
    return EDGES.index((min(a, b), max(a, b)))


TRIANGLES = _table()


class _Tables(NamedTuple):
    bits: Int[Tensor, "4"]
    edges: Int[Tensor, "6 2"]
    triangles: Int[Tensor, "16 2 3"]


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> _Tables:
    """The constants on ``device``, copied once."""
    values = ([1, 2, 4, 8], EDGES, TRIANGLES)
    return _Tables(*(torch.tensor(value, device=device) for value in values))
