"""Level sets of a field on a regular grid."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.studio.models.mesh import Mesh


def grid_points(bbox: Float[Tensor, "2 3"], resolution: int) -> Float[Tensor, "N 3"]:
    """``resolution``^3 points that span ``bbox``, x slowest."""
    axes = [torch.linspace(0, 1, resolution, device=bbox.device)] * 3
    unit = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    return bbox[0] + unit * (bbox[1] - bbox[0])


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
        v_pos=bbox[0] + unit * (bbox[1] - bbox[0]),
        t_pos_idx=torch.from_numpy(faces.astype(np.int64)).to(bbox.device),
        bbox=bbox,
    )
