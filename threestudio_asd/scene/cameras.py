"""Camera geometry of threestudio: pinhole cameras that orbit the origin.

World: right-handed, z up; azimuth 0 lies on +x and grows towards +y. A camera-to-world matrix
``c2w`` holds the columns right, up, backward (the negated viewing direction), position.
Clip space has its y axis flipped, so that row 0 of a rasterised image is the top.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# threestudio's planes; every length is in scene units (metres in an exported GLB).
NEAR, FAR = 0.01, 100.0


@dataclass(frozen=True)
class Draws:
    """Random numbers for the cameras of a batch.

    Args:
        rng: Where they come from.
        count: How many cameras there are.
        views: How many of them, one after the other, share each number: the views of one scene.
    """

    rng: torch.Generator
    count: int
    views: int = 1

    def rand(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Uniform in [0, 1)."""
        return self._shared(torch.rand(self.count // self.views, *shape, generator=self.rng))

    def randn(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Standard normal."""
        return self._shared(torch.randn(self.count // self.views, *shape, generator=self.rng))

    def uniform(self, bounds: Sequence[float | int]) -> Float[Tensor, "B"]:
        """Uniform between two bounds."""
        low, high = bounds
        return low + (high - low) * self.rand()

    def _shared(self, drawn: Float[Tensor, "S ..."]) -> Float[Tensor, "B ..."]:
        return drawn.repeat_interleave(self.views, dim=0)


def orbit_positions(
    elevation_deg: Float[Tensor, "B"],
    azimuth_deg: Float[Tensor, "B"],
    distance: Float[Tensor, "B"],
) -> Float[Tensor, "B 3"]:
    """Points at ``distance`` from the origin, angles in degrees."""
    elevation, azimuth = torch.deg2rad(elevation_deg), torch.deg2rad(azimuth_deg)
    unit = torch.stack(
        [
            elevation.cos() * azimuth.cos(),
            elevation.cos() * azimuth.sin(),
            elevation.sin(),
        ],
        dim=-1,
    )
    return distance[:, None] * unit


def look_at(
    positions: Float[Tensor, "B 3"], targets: Float[Tensor, "B 3"], up: Float[Tensor, "B 3"]
) -> Float[Tensor, "B 4 4"]:
    """Camera-to-world matrices of cameras at ``positions`` that look at ``targets``.

    Straight above or below the target, where ``up`` gives no direction, right is +y: the limit of
    an orbit at azimuth 0.
    """
    forward = F.normalize(targets - positions, dim=-1)
    right = torch.linalg.cross(forward, up, dim=-1)
    degenerate = right.norm(dim=-1, keepdim=True) < 1e-6
    right = torch.where(degenerate, right.new_tensor([0.0, 1.0, 0.0]), right)
    right = F.normalize(right, dim=-1)
    true_up = F.normalize(torch.linalg.cross(right, forward, dim=-1), dim=-1)
    top = torch.stack([right, true_up, -forward, positions], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(top), 1, 4)
    return torch.cat([top, bottom], dim=1)


def projection_matrices(
    fovy: Float[Tensor, "B"], aspect: float, near: float = NEAR, far: float = FAR
) -> Float[Tensor, "B 4 4"]:
    """OpenGL perspective matrices with y flipped; ``fovy`` in radians, aspect = width / height."""
    scale = 1.0 / torch.tan(fovy / 2)
    matrices = torch.zeros(len(fovy), 4, 4, dtype=fovy.dtype, device=fovy.device)
    matrices[:, 0, 0] = scale / aspect
    matrices[:, 1, 1] = -scale
    matrices[:, 2, 2] = (near + far) / (near - far)
    matrices[:, 2, 3] = 2 * near * far / (near - far)
    matrices[:, 3, 2] = -1
    return matrices


def mvp_matrices(
    c2w: Float[Tensor, "B 4 4"], projections: Float[Tensor, "B 4 4"]
) -> Float[Tensor, "B 4 4"]:
    """World to clip space: the projection times the inverse of the rigid ``c2w``."""
    rotation, position = c2w[:, :3, :3], c2w[:, :3, 3:]
    w2c = torch.zeros_like(c2w)
    w2c[:, :3, :3] = rotation.mT
    w2c[:, :3, 3:] = -rotation.mT @ position
    w2c[:, 3, 3] = 1
    return projections @ w2c


def camera_rays(
    c2w: Float[Tensor, "B 4 4"],
    fovy: Float[Tensor, "B"],
    height: int,
    width: int,
    normalize: bool = True,
) -> tuple[Float[Tensor, "B {height} {width} 3"], Float[Tensor, "B {height} {width} 3"]]:
    """World-space origins and directions of the rays through the pixel centres.

    Without ``normalize`` a direction has unit length along the optical axis.
    """
    tan_half = torch.tan(fovy / 2)[:, None, None]
    x = (2 * torch.arange(width, device=c2w.device) + 1 - width) / height
    y = (height - 1 - 2 * torch.arange(height, device=c2w.device)) / height
    backward = tan_half.new_full((1, height, width), -1.0)
    local = torch.stack(
        torch.broadcast_tensors(x * tan_half, y[:, None] * tan_half, backward), dim=-1
    )
    directions = torch.einsum("bhwi,bji->bhwj", local, c2w[:, :3, :3])
    if normalize:
        directions = F.normalize(directions, dim=-1)
    return c2w[:, None, None, :3, 3].expand_as(directions), directions


def camera_batch(
    *,
    positions: Float[Tensor, "B 3"],
    targets: Float[Tensor, "B 3"],
    up: Float[Tensor, "B 3"],
    fovy_deg: Float[Tensor, "B"],
    elevation_deg: Float[Tensor, "B"],
    azimuth_deg: Float[Tensor, "B"],
    distances: Float[Tensor, "B"],
    light_positions: Float[Tensor, "B 3"],
    height: int,
    width: int,
    normalize: bool = True,
) -> dict:
    """threestudio's batch of cameras; ``elevation`` and ``azimuth`` stay in degrees, ``fovy`` is
    in radians, and all three are the values before any perturbation."""
    fovy = torch.deg2rad(fovy_deg)
    c2w = look_at(positions, targets, up)
    rays_o, rays_d = camera_rays(c2w, fovy, height, width, normalize)
    projections = projection_matrices(fovy, width / height)
    return {
        "rays_o": rays_o,
        "rays_d": rays_d,
        "mvp_mtx": mvp_matrices(c2w, projections),
        "camera_positions": positions,
        "c2w": c2w,
        "light_positions": light_positions,
        "elevation": elevation_deg,
        "azimuth": azimuth_deg,
        "camera_distances": distances,
        "height": height,
        "width": width,
        "fovy": fovy,
        "proj_mtx": projections,
    }
