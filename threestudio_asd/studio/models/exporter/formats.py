"""Mesh files: GLB, PLY and OBJ with vertex colours.

PLY and OBJ keep the scene's axes (z up, the front towards +x) and its display (sRGB) colours.
glTF prescribes y up, the front towards +z, metres and linear colours: a GLB has its axes turned,
one scene unit as a metre, and linear colours.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.studio.models.mesh import Mesh

# Rows are the new x, y, z: (x, y, z) becomes (y, z, x), a rotation.
Z_UP_TO_Y_UP = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)


def write_mesh(path: str | Path, mesh: Mesh, save_normal: bool = False) -> None:
    """Write ``mesh`` in the format that the suffix of ``path`` names, with its colours if any.

    Raises:
        UserError: an unknown suffix.
    """
    suffix = Path(path).suffix.lstrip(".")
    if suffix not in WRITERS:
        raise UserError(f"Cannot write {path}: use one of the suffixes {sorted(WRITERS)}.")
    Path(path).write_bytes(WRITERS[suffix](mesh, save_normal))


def to_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    """The same mesh for trimesh; colours, if any, as bytes."""
    colors = mesh.v_rgb
    if colors is not None:
        colors = (255 * _numpy(colors.clamp(0, 1))).round().astype(np.uint8)
    return trimesh.Trimesh(
        vertices=_numpy(mesh.v_pos),
        faces=mesh.t_pos_idx.cpu().numpy(),
        vertex_normals=_numpy(mesh.v_nrm),
        vertex_colors=colors,
        process=False,
    )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def _glb(mesh: Mesh, save_normal: bool) -> bytes:
    turned = to_trimesh(Mesh(mesh.v_pos, mesh.t_pos_idx))
    turned.apply_transform(Z_UP_TO_Y_UP)
    if mesh.v_rgb is not None:
        # Trimesh stores colours as bytes, too coarse for linear dark tones; as an attribute they
        # stay floats.
        turned.vertex_attributes["_COLOR"] = _srgb_to_linear(_numpy(mesh.v_rgb.clamp(0, 1)))
    return turned.export(
        file_type="glb", include_normals=save_normal, tree_postprocessor=_name_colors
    )


def _name_colors(tree: dict[str, Any]) -> None:
    attributes = tree["meshes"][0]["primitives"][0]["attributes"]
    if "_COLOR" in attributes:
        attributes["COLOR_0"] = attributes.pop("_COLOR")


def _ply(mesh: Mesh, save_normal: bool) -> bytes:
    return to_trimesh(mesh).export(file_type="ply", vertex_normal=save_normal)


def _obj(mesh: Mesh, save_normal: bool) -> bytes:
    text = to_trimesh(mesh).export(
        file_type="obj", include_normals=save_normal, include_texture=False, header=None
    )
    return text.encode()


def _srgb_to_linear(color: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


WRITERS: dict[str, Callable[[Mesh, bool], bytes]] = {"glb": _glb, "ply": _ply, "obj": _obj}
