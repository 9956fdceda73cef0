"""Shapes that a grid of signed distances starts from: threestudio's ``shape_init``."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.kernels.mesh_distance import signed_distance

_AXES = {
    sign + axis: float(sign + "1") * np.eye(3)[i] for sign in "+-" for i, axis in enumerate("xyz")
}


def initial_distance(cfg: Any, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 1"]:
    """Distance to the shape that ``cfg.shape_init`` names, negative inside.

    ``sphere`` and ``mesh:<path>`` (centred, its largest coordinate ``shape_init_params``) are
    exact; ``ellipsoid`` is 0 on the surface and -1 in the centre.

    Raises:
        UserError: an unknown shape, a parameter that does not suit it, or an unusable file.
    """
    shape, given = cfg.shape_init, cfg.shape_init_params
    if shape == "sphere":
        return points.norm(dim=-1, keepdim=True) - _numbers(shape, given, 1)
    if shape == "ellipsoid":
        axes = points.new_tensor(_numbers(shape, given, 3))
        return (points / axes).norm(dim=-1, keepdim=True) - 1.0
    if shape is not None and shape.startswith("mesh:"):
        vertices, faces = _standard_mesh(cfg, shape.removeprefix("mesh:"))
        vertices = torch.from_numpy(vertices).to(points)
        return signed_distance(points, vertices, torch.from_numpy(faces).to(points.device))[:, None]
    raise UserError(f"geometry.shape_init is {shape!r}; use sphere, ellipsoid or mesh:<path>.")


def _numbers(shape: str, given: Any, count: int) -> Any:
    """``given`` as ``count`` positive floats; one comes alone."""
    values = list(given) if hasattr(given, "__iter__") else [given]
    good = all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in values)
    if len(values) != count or not good:
        wanted = "one positive number" if count == 1 else f"{count} positive numbers"
        raise UserError(
            f"geometry.shape_init {shape} needs shape_init_params with {wanted}, not {given}."
        )
    return [float(v) for v in values] if count > 1 else float(values[0])


def _standard_mesh(cfg: Any, path: str) -> tuple[np.ndarray, np.ndarray]:
    """The file's mesh, centred, scaled, and turned to z up and front +x."""
    import trimesh

    if not Path(path).is_file():
        raise UserError(f"geometry.shape_init: the mesh {path} does not exist (or is not a file).")
    try:
        mesh = trimesh.load_mesh(path)
        vertices, faces = np.array(mesh.vertices, dtype=float), np.array(mesh.faces)
    except Exception as error:  # each format's reader raises its own
        raise UserError(f"geometry.shape_init: {path} cannot be read as a mesh: {error}") from error
    if len(faces) == 0:
        raise UserError(f"geometry.shape_init: {path} has no triangles.")
    vertices -= vertices.mean(0)
    vertices *= _numbers("mesh", cfg.shape_init_params, 1) / np.abs(vertices).max()
    return vertices @ _to_standard(cfg).T, faces


def _to_standard(cfg: Any) -> np.ndarray:
    """The rotation that takes ``shape_init_mesh_up`` to +z and ``..._front`` to +x."""
    up, front = (_AXES.get(a) for a in (cfg.shape_init_mesh_up, cfg.shape_init_mesh_front))
    if up is None or front is None or up @ front != 0:
        raise UserError(
            f"geometry.shape_init_mesh_up is {cfg.shape_init_mesh_up} and shape_init_mesh_front "
            f"{cfg.shape_init_mesh_front}; give two different axes out of {', '.join(_AXES)}."
        )
    return np.stack([front, np.cross(up, front), up])
