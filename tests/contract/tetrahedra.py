"""Facts about the deformable tetrahedral grid: its mesh, gradients, mesh losses and conversions.

threestudio reads its grid from a file; here it is given the bundled host's kind of grid, numbered
in its own way. What does not depend on the numbering is compared.
"""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contract.hosts import Host
from contract.rendering import GRID, POINTS, fill, make, numbers
from torch import Tensor, nn

RESOLUTION, CELLS = 30, 12  # cubes along an axis: 0.4 of the resolution


def tetrahedra(host: Host) -> dict[str, Any]:
    """In the current folder a file for threestudio appears."""
    _write_grid(Path("load/tets") / f"{RESOLUTION}_tets.npz")
    sphere = _grid(host, shape_init="sphere", shape_init_params=0.6)
    ellipsoid = _grid(host, shape_init="ellipsoid", shape_init_params=[0.6, 0.3, 0.4], radius=1.5)
    deformed = _grid(host, shape_init="sphere", shape_init_params=0.6)
    deformed.deformation.data = torch.sin(9 * _positions(deformed))
    kept = _grid(host, weights=None, fix_geometry=True, geometry_only=True)
    return {
        "sphere": _mesh(sphere),
        "ellipsoid": _mesh(ellipsoid),
        "deformed": _mesh(deformed) | {"gradients": _gradients(deformed)},
        "plain": numbers(fill(sphere)(torch.tensor(POINTS))),
        "export": numbers(sphere.export(points=torch.tensor(POINTS))),
        "names": {
            "trained": {k: list(v.shape)[1:] for k, v in sphere.named_parameters() if "." not in k},
            "fixed": sorted(k for k, _ in kept.named_buffers() if k in kept.state_dict()),
        },
        "from-volume": _conversions(host),
        "from-grid": _mesh(_convert(host, deformed, fix_geometry=True)),
        "losses": _losses(type(sphere.isosurface())),
    }


def _write_grid(path: Path) -> None:
    """A body-centred cubic grid: each pair of neighbouring centres with the sides between them."""
    number: dict[tuple[float, ...], int] = {}

    def at(point: np.ndarray) -> int:
        return number.setdefault(tuple(point.tolist()), len(number))

    made = []
    for cell in product(range(CELLS), repeat=3):
        centre = np.array(cell) + 0.5
        for axis in range(3):
            normal, u, v = (np.eye(3)[(axis + k) % 3] / 2 for k in range(3))
            square = [
                centre + normal + a * u + b * v for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
            ]
            if cell[axis] + 1 == CELLS:
                made.append([at(centre), *(at(square[k]) for k in (0, 1, 2))])
                made.append([at(centre), *(at(square[k]) for k in (0, 2, 3))])
            else:
                ends = at(centre), at(centre + 2 * normal)
                made += [[*ends, at(square[k]), at(square[(k + 1) % 4])] for k in range(4)]
            if cell[axis] == 0:
                square = [corner - 2 * normal for corner in square]
                made.append([at(centre), *(at(square[k]) for k in (0, 2, 1))])
                made.append([at(centre), *(at(square[k]) for k in (0, 3, 2))])
    path.parent.mkdir(parents=True, exist_ok=True)
    vertices = np.array(list(number), dtype=np.float32) / CELLS
    np.savez(path, vertices=vertices, indices=np.array(made))


def _grid(host: Host, **cfg: Any) -> Any:
    cfg = {"isosurface_resolution": RESOLUTION, "pos_encoding_config": GRID, **cfg}
    geometry = make(host, "tetrahedra-sdf-grid", cfg)
    geometry.initialize_shape()
    return geometry


def _positions(geometry: Any) -> Tensor:
    """Grid vertices in [0, 1]^3, in the order of the signed distances."""
    helper = getattr(geometry, "isosurface_helper", geometry)
    return helper.grid_vertices


def _mesh(geometry: Any) -> dict[str, Any]:
    mesh = geometry.isosurface()
    a, b, c = mesh.v_pos.double()[mesh.t_pos_idx].unbind(1)
    facts = {
        "vertices": len(mesh.v_pos),
        "triangles": len(mesh.t_pos_idx),
        "edges": len(mesh.edges),
        "area": torch.linalg.cross(b - a, c - a).norm(dim=-1).sum() / 2,
        "volume": (torch.linalg.cross(a, b) * c).sum() / 6,
        "low": mesh.v_pos.amin(0),
        "high": mesh.v_pos.amax(0),
        "box": geometry.isosurface_bbox,
    }
    return numbers(facts)


def _gradients(geometry: Any) -> dict[str, Any]:
    """Of sums over the vertices of the mesh, weighted so that symmetry does not cancel them."""
    mesh = geometry.isosurface()
    weight = torch.tensor([0.3, -0.7, 1.1])
    loss = (mesh.v_pos * weight).square().sum()
    parameters = [geometry.sdf, geometry.deformation]
    sdf, deformation = torch.autograd.grad(loss, parameters)
    position = _positions(geometry)
    return numbers(
        {
            "sdf": (sdf * position).sum(0),
            "deformation": deformation.sum(0),
            "deformation-moment": (deformation * position.square()).sum(0),
        }
    )


def _losses(mesh_class: type) -> dict[str, Any]:
    """Of an uneven pyramid, and their gradients. (How a host cuts the quadrangles of its isosurface
    in two is its own affair, so these are no facts of the meshes above.)"""
    corners = [[1.0, 0, 0], [0, 1.2, 0.1], [-0.9, 0, 0], [0, -1, 0.2], [0.1, 0, 0.8]]
    faces = [[i, (i + 1) % 4, 4] for i in range(4)] + [[0, 2, 1], [0, 3, 2]]
    facts = {}
    for name in ("normal_consistency", "laplacian"):
        v_pos = torch.tensor(corners, requires_grad=True)
        loss = getattr(mesh_class(v_pos, torch.tensor(faces)), name)()
        facts[name] = {"value": loss, "gradient": torch.autograd.grad(loss, v_pos)[0]}
    return numbers(facts)


def _conversions(host: Host) -> dict[str, Any]:
    facts = {}
    for name, threshold in (("number", 3.0), ("auto", "auto")):
        cfg = {"pos_encoding_config": GRID, "isosurface_threshold": threshold}
        volume = fill(make(host, "implicit-volume", cfg))
        geometry = _convert(host, volume)
        facts[name] = _mesh(geometry) | {
            "distances": numbers(geometry.sdf.square().mean()),
            "features": numbers(geometry(torch.tensor(POINTS))["features"]),
        }
    return facts


def _convert(host: Host, source: nn.Module, **cfg: Any) -> Any:
    cfg = {"isosurface_resolution": RESOLUTION, "pos_encoding_config": GRID, **cfg}
    return host.registry["tetrahedra-sdf-grid"].create_from(source, cfg, copy_net=True)
