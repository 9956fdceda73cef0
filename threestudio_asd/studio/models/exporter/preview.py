"""Pictures of an exported mesh, drawn from the mesh and its own colours alone."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.kernels.texture import texture
from threestudio_asd.scene.cameras import (
    look_at,
    mvp_matrices,
    orbit_positions,
    projection_matrices,
)
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.scene.mesh_view import MeshView

FOVY, ELEVATION = 40.0, 20.0  # degrees
# Of the light at the camera; the rest comes from everywhere.
HEADLIGHT = 0.5
BEHIND = 1.0
GREY = 0.7  # of a mesh without colours


@torch.no_grad()
def turntable(
    mesh: Mesh, albedo: Float[Tensor, "Ht Wt 3"] | None, views: int = 48, size: int = 320
) -> Float[Tensor, "T {size} {size} 3"]:
    """Pictures in [0, 1] from ``views`` azimuths, 0 first, that show all of the mesh before white.

    Args:
        albedo: the mesh's texture; its vertex colours, or grey, if None.
        size: pixels.
    """
    frames = []
    for mvp, eye in zip(*_cameras(mesh, views), strict=True):
        view = MeshView.of(mesh, mvp[None], size, size)
        normal = F.normalize(view.values(mesh.v_nrm), dim=-1)
        towards = F.normalize(eye - view.values(mesh.v_pos), dim=-1)
        facing = (normal * towards).sum(-1, keepdim=True).clamp(min=0)
        color = _albedo(mesh, albedo, view) * (1 - HEADLIGHT + HEADLIGHT * facing)
        frames.append(view.smoothed(torch.where(view.mask, color, BEHIND))[0])
    return torch.stack(frames).clamp(0, 1)


def _cameras(mesh: Mesh, views: int) -> tuple[Float[Tensor, "T 4 4"], Float[Tensor, "T 3"]]:
    """From world to clip space, and eyes, around the mesh's box, which fits into every picture."""
    low, high = mesh.v_pos.amin(0), mesh.v_pos.amax(0)
    radius = (mesh.v_pos - (low + high) / 2).norm(dim=-1).amax()
    distance = 1.05 * radius / math.sin(math.radians(FOVY / 2))
    angle = torch.arange(views, device=low.device) * (360.0 / views)
    ones = torch.ones_like(angle)
    eye = (low + high) / 2 + orbit_positions(ELEVATION * ones, angle, distance * ones)
    up = eye.new_tensor([0.0, 0.0, 1.0]).expand(views, 3)
    c2w = look_at(eye, ((low + high) / 2).expand(views, 3), up)
    near, far = float(0.01 * distance), float(10 * distance)
    projection = projection_matrices(torch.deg2rad(FOVY * ones), 1.0, near, far)
    return mvp_matrices(c2w, projection), eye


def _albedo(
    mesh: Mesh, albedo: Float[Tensor, "Ht Wt 3"] | None, view: MeshView
) -> Float[Tensor, "1 H W 3"]:
    if albedo is not None:
        uv = view.values(mesh.v_tex.float(), mesh.t_tex_idx)
        return texture(albedo[None].to(uv), uv, boundary_mode="clamp")
    if mesh.v_rgb is not None:
        return view.values(mesh.v_rgb.float())
    return view.rast.new_full((*view.rast.shape[:3], 3), GREY)
