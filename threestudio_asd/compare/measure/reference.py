"""The truth that results are compared with, rendered once and kept."""

from functools import cache
from pathlib import Path

import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import homes
from threestudio_asd.scene.isosurface import grid_points, marching_cubes
from threestudio_asd.tiny import dataset, scenes

TRUTH_RENDERS = 500
_SEED = 4242  # neither the teacher's nor the judge's
_RESOLUTION = 96


def place() -> homes.Cache:
    """Where renders of the truth are kept, for all comparisons that are run from a folder."""
    folder = Path(".threestudio_cache/truth").absolute()
    remedy = "run in a folder that can be written to"
    return homes.Cache("renders of the truth", folder, remedy, "truth")


def truth_images(
    object_name: str, color_name: str, folder: Path, count: int = TRUTH_RENDERS
) -> Float[Tensor, "N 3 64 64"]:
    """``count`` renders of the scene from the teacher's training cameras, kept in ``folder``."""
    name = f"{color_name}-{object_name}-{count}-{scenes.WORLD_VERSION}.pt"
    renders = dataset.cached(folder / name, count, _SEED, [(object_name, color_name)], 0.0)
    return renders.images.float() / 255


@cache
def truth_mesh(object_name: str) -> trimesh.Trimesh:
    """The scene's surface, from its signed distance on a 96^3 grid over [-1, 1]^3."""
    bbox = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    distance = scenes.sdf(object_name, grid_points(bbox, _RESOLUTION))
    mesh = marching_cubes(-distance.reshape((_RESOLUTION,) * 3), 0.0, bbox)
    return as_trimesh(mesh.v_pos, mesh.t_pos_idx)


def as_trimesh(vertices: Tensor, faces: Tensor) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices.cpu().numpy(), faces.cpu().numpy(), process=False)
