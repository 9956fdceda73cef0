"""Level sets of a field, sampled in a box."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.scene.marching_tetrahedra import marching_tetrahedra, tetrahedral_grid
from threestudio_asd.scene.mesh import Mesh


class CubeSampling:
    """``resolution``^3 points and marching cubes.

    ``points`` gives points that span a box; ``mesh`` takes the levels there, negative inside, and
    returns the surface where they cross zero.
    """

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution

    def points(self, bbox: Float[Tensor, "2 3"]) -> Float[Tensor, "N 3"]:
        return grid_points(bbox, self.resolution)

    def mesh(self, level: Float[Tensor, "N 1"], bbox: Float[Tensor, "2 3"]) -> Mesh:
        return marching_cubes(-level.view([self.resolution] * 3), 0.0, bbox)


class TetrahedralSampling:
    """The vertices of ``tetrahedral_grid(resolution)`` and marching tetrahedra: an eighth of
    :class:`CubeSampling`'s points for the same resolution."""

    def __init__(self, resolution: int) -> None:
        self.grid = tetrahedral_grid(resolution)

    def points(self, bbox: Float[Tensor, "2 3"]) -> Float[Tensor, "N 3"]:
        return scale_to(self.grid.vertices.to(bbox.device), bbox)

    def mesh(self, level: Float[Tensor, "N 1"], bbox: Float[Tensor, "2 3"]) -> Mesh:
        corners = self.grid.tetrahedra.to(bbox.device)
        vertices, faces = marching_tetrahedra(self.points(bbox), level[:, 0], corners)
        return Mesh(vertices, faces, bbox=bbox, grid_level=level)


Sampling = CubeSampling | TetrahedralSampling


def scale_to(unit: Float[Tensor, "N 3"], bbox: Float[Tensor, "2 3"]) -> Float[Tensor, "N 3"]:
    """Points of [0, 1]^3 in ``bbox``."""
    return bbox[0] + unit * (bbox[1] - bbox[0])


def grid_points(bbox: Float[Tensor, "2 3"], resolution: int) -> Float[Tensor, "N 3"]:
    """``resolution``^3 points that span ``bbox``, x slowest."""
    axes = [torch.linspace(0, 1, resolution, device=bbox.device)] * 3
    unit = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    return scale_to(unit, bbox)


def marching_cubes(
    field: Float[Tensor, "R R R"], threshold: float, bbox: Float[Tensor, "2 3"]
) -> Mesh:
    """The surface where ``field``, sampled at ``grid_points(bbox, R)``, crosses ``threshold``;
    inside is where it is larger. The threshold must lie within the field's range."""
    from skimage import measure

    # "ascent" winds the triangles counter-clockwise seen from where the field is smaller.
    vertices, faces, _, _ = measure.marching_cubes(
        field.detach().cpu().numpy(), threshold, gradient_direction="ascent"
    )
    unit = torch.from_numpy(np.ascontiguousarray(vertices)).to(bbox) / (field.shape[0] - 1)
    return Mesh(
        v_pos=scale_to(unit, bbox),
        t_pos_idx=torch.from_numpy(faces.astype(np.int64)).to(bbox.device),
        bbox=bbox,
    )
