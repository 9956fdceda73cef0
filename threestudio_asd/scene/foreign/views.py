"""How a foreign mesh looks with its own colours."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from threestudio_asd.scene.cameras import (
    look_at,
    mvp_matrices,
    orbit_positions,
    projection_matrices,
)
from threestudio_asd.scene.foreign.mesh import ForeignMesh
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.scene.mesh_view import MeshView


@dataclass(frozen=True)
class Seen:
    """A mesh from some cameras, without light.

    Args:
        albedo: Display colours; 0 where nothing is seen.
        normal: Unit normals in the scene's axes.
        position: Places in the scene.
        mask: Where the mesh is seen.
        eye: The cameras' places.
    """

    albedo: Float[Tensor, "B H W 3"]
    normal: Float[Tensor, "B H W 3"]
    position: Float[Tensor, "B H W 3"]
    mask: Bool[Tensor, "B H W 1"]
    eye: Float[Tensor, "B 3"]


@torch.no_grad()
def seen(
    foreign: ForeignMesh,
    placed: Mesh,
    azimuths: list[float],
    elevation: float,
    distance: float,
    fovy: float,
    size: int,
) -> Seen:
    """From cameras around the origin; angles in degrees.

    Args:
        placed: ``foreign`` where it shall stand: its :meth:`~ForeignMesh.in_ball` or ``in_scene``.
        size: Pixels to a side.
    """
    mesh = Mesh(placed.v_pos.float(), placed.t_pos_idx)
    angle = torch.tensor(azimuths, dtype=torch.float32)
    ones = torch.ones_like(angle)
    eye = orbit_positions(elevation * ones, angle, distance * ones)
    up = torch.tensor([0.0, 0.0, 1.0]).expand(len(angle), 3)
    projection = projection_matrices(math.radians(fovy) * ones, 1.0, 0.01 * distance, 10 * distance)
    view = MeshView.of(
        mesh, mvp_matrices(look_at(eye, torch.zeros_like(eye), up), projection), *[size] * 2
    )
    albedo = torch.zeros(*view.mask.shape[:3], 3)
    hit = view.mask[..., 0]
    rast = view.rast[hit].double().numpy()
    # Of the third corner the rest is left.
    weights = np.stack([rast[:, 0], rast[:, 1], 1 - rast[:, 0] - rast[:, 1]], axis=1)
    colors = foreign.colors(rast[:, 3].round().astype(int) - 1, weights)
    albedo[hit] = torch.from_numpy(colors).float()
    normal = F.normalize(view.values(placed.v_nrm.float()), dim=-1)
    return Seen(albedo, normal, view.values(mesh.v_pos), view.mask, eye)
