"""Mesh files: GLB with vertex colours or a texture, PLY and OBJ with vertex colours.

PLY and OBJ keep the scene's axes (z up, the front towards +x) and its display (sRGB) colours.
glTF prescribes y up, the front towards +z, metres, linear colours of vertices and sRGB textures: a
GLB has its axes turned, one scene unit as a metre, and its vertex colours converted.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.files import written_in_place
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.scene.objfile import SCENE_AXES
from threestudio_asd.stop import held

# Rows are the new x, y, z: (x, y, z) becomes (y, z, x), a rotation.
Z_UP_TO_Y_UP = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)

MATTE = {"metallicFactor": 0.0, "roughnessFactor": 1.0}


def write_mesh(
    path: str | Path,
    mesh: Mesh,
    save_normal: bool = False,
    texture: Float[Tensor, "H W 3"] | None = None,
) -> None:
    """Write ``mesh`` in the format that the suffix of ``path`` names, with its colours if any.

    Args:
        texture: of GLB: colours in [0, 1] at the mesh's texture coordinates, first row at the top.

    Raises:
        UserError: an unknown suffix, or a texture for a format without one.
    """
    suffix = Path(path).suffix.lstrip(".")
    if suffix not in WRITERS:
        raise UserError(f"Cannot write {path}: use one of the suffixes {sorted(WRITERS)}.")
    if suffix != "glb" and texture is not None:
        raise UserError(f"Cannot write a texture into {path}: use glb.")
    if texture is not None:
        data = _textured_glb(mesh, save_normal, texture)
    else:
        data = WRITERS[suffix](mesh, save_normal)
    with held(), written_in_place(path):
        Path(path).write_bytes(data)


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
        turned.vertex_attributes["_COLOR"] = srgb_to_linear(_numpy(mesh.v_rgb.clamp(0, 1)))
    return turned.export(
        file_type="glb", include_normals=save_normal, tree_postprocessor=_finish_colors
    )


def _finish_colors(tree: dict[str, Any]) -> None:
    primitive = tree["meshes"][0]["primitives"][0]
    attributes = primitive["attributes"]
    if "_COLOR" in attributes:
        attributes["COLOR_0"] = attributes.pop("_COLOR")
    # glTF's own default is a metal, which viewers show dark.
    tree["materials"] = [{"name": "default", "pbrMetallicRoughness": dict(MATTE)}]
    primitive["material"] = 0


def _textured_glb(mesh: Mesh, save_normal: bool, texture: Float[Tensor, "H W 3"]) -> bytes:
    """One vertex for each pair of position and texture coordinates; the normals are those of the
    whole surface, so that seams stay invisible."""
    n = len(mesh.v_tex)
    pairs, corner = torch.unique(mesh.t_pos_idx * n + mesh.t_tex_idx, return_inverse=True)
    position, coordinate = pairs // n, pairs % n
    image = Image.fromarray((255 * _numpy(texture.clamp(0, 1))).round().astype(np.uint8))
    material = trimesh.visual.material.PBRMaterial(
        name="default", baseColorTexture=image, baseColorFactor=[255] * 4, **MATTE
    )
    # Trimesh counts from the lower left.
    uv = _numpy(mesh.v_tex[coordinate]) * [1, -1] + [0, 1]
    turned = trimesh.Trimesh(
        vertices=_numpy(mesh.v_pos[position]),
        faces=corner.view(-1, 3).cpu().numpy(),
        vertex_normals=_numpy(mesh.v_nrm[position]),
        visual=trimesh.visual.TextureVisuals(uv=uv, material=material),
        process=False,
    )
    turned.apply_transform(Z_UP_TO_Y_UP)
    return turned.export(file_type="glb", include_normals=save_normal)


def _ply(mesh: Mesh, save_normal: bool) -> bytes:
    data = to_trimesh(mesh).export(file_type="ply", vertex_normal=save_normal)
    first, second, rest = data.split(b"\n", 2)
    return b"\n".join([first, second, b"comment " + SCENE_AXES.encode(), rest])


def _obj(mesh: Mesh, save_normal: bool) -> bytes:
    text = to_trimesh(mesh).export(
        file_type="obj", include_normals=save_normal, include_texture=False, header=SCENE_AXES
    )
    return text.encode()


def srgb_to_linear(color: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(color: np.ndarray) -> np.ndarray:
    """The inverse of :func:`srgb_to_linear`."""
    return np.where(color <= 0.0031308, color * 12.92, 1.055 * color ** (1 / 2.4) - 0.055)


WRITERS: dict[str, Callable[[Mesh, bool], bytes]] = {"glb": _glb, "ply": _ply, "obj": _obj}
