"""Signed distance from points to a triangle mesh, with Warp's own bounding volume hierarchy."""

from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.kernels._warp import launch, made_once, warp


def signed_distance(
    points: Float[Tensor, "N 3"], vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]
) -> Float[Tensor, "N"]:
    """Distance to the nearest triangle, negative inside; float32, no gradients.

    Inside is where the winding number of the outward-facing triangles is above one half, which
    also serves meshes with small holes (arXiv:1802.02650 and Barill et al. 2018).
    """
    wp = warp()
    points, vertices = points.detach().float().contiguous(), vertices.detach().float().contiguous()
    indices = faces.detach().to(torch.int32).reshape(-1).contiguous()
    mesh = wp.Mesh(
        points=wp.from_torch(vertices, dtype=wp.vec3),
        indices=wp.from_torch(indices),
        support_winding_number=True,
    )
    distance = torch.empty(len(points), device=points.device)
    # No point of the mesh is farther away than this.
    span = (points.abs().amax() + vertices.abs().amax()).item() * 2 * 3**0.5
    args = [mesh.id, wp.from_torch(points, dtype=wp.vec3), span, wp.from_torch(distance)]
    launch(_kernel(), len(points), args, points.device)
    return distance


@no_type_check  # annotations of kernels are Warp types
@made_once
def _kernel() -> Any:
    wp = warp()

    @wp.kernel(enable_backward=False, module="unique")
    def mesh_distance(
        mesh: wp.uint64,
        points: wp.array(dtype=wp.vec3),
        span: wp.float32,
        distance: wp.array(dtype=wp.float32),
    ):
        i = wp.tid()
        found = wp.mesh_query_point_sign_winding_number(mesh, points[i], span)
        nearest = wp.mesh_eval_position(mesh, found.face, found.u, found.v)
        distance[i] = found.sign * wp.length(nearest - points[i])

    return mesh_distance
