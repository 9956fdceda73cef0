"""Colours and other attributes of the material, at vertices and as texture maps."""

import time
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import log
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.scene.uv import fill_map, texel_positions
from threestudio_asd.studio.models.geometry.base import BaseGeometry
from threestudio_asd.studio.models.material.base import BaseMaterial

CHUNK = 2**17
# Seconds between two lines of progress.
INTERVAL = 10.0


@torch.no_grad()
def color_vertices(mesh: Mesh, geometry: BaseGeometry, material: BaseMaterial) -> None:
    """Give every vertex the material's albedo there, if there is one."""
    maps = attributes(mesh.v_pos, geometry, material)
    if "albedo" in maps:
        mesh.set_vertex_color(maps["albedo"])
    else:
        log.warn("The material has no albedo: the mesh is exported without colours.")


@torch.no_grad()
def bake(
    mesh: Mesh, geometry: BaseGeometry, material: BaseMaterial, size: int
) -> dict[str, Float[Tensor, "H W C"]]:
    """The material's attributes as maps of ``size`` x ``size`` texels in the mesh's texture
    coordinates, sampled at the point of each texel's centre; rows from the top."""
    texel, points = texel_positions(mesh.v_tex, mesh.t_tex_idx, mesh.v_pos, mesh.t_pos_idx, size)
    maps = attributes(points, geometry, material)
    return {name: fill_map(texel, values.float(), size) for name, values in maps.items()}


def attributes(
    points: Float[Tensor, "N 3"], geometry: BaseGeometry, material: BaseMaterial
) -> dict[str, Float[Tensor, "N C"]]:
    """The material's attributes at ``points``: ``albedo`` and the like, in [0, 1]."""
    parts = [
        material.export(points=chunk, **geometry.export(points=chunk)) for chunk in _chunks(points)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _chunks(points: Tensor) -> Iterator[Tensor]:
    told = time.monotonic()
    for start in range(0, max(len(points), 1), CHUNK):
        yield points[start : start + CHUNK]
        done = min(start + CHUNK, len(points))
        if time.monotonic() - told > INTERVAL and done < len(points):
            told = time.monotonic()
            log.info("sampling colours: %d of %d points", done, len(points))
