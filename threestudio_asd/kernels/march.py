"""Ray marching through an occupancy grid: two Warp passes, and the same in plain torch.

Along each ray lies a lattice of steps from its near plane; a step is a sample if its midpoint lies
in an occupied cell of the finest level whose box holds it.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threestudio_asd.kernels._warp import as_array, launch_split, threads_for, warp

Real = float | int
Samples = tuple[Int[Tensor, "N"], Float[Tensor, "N"], Float[Tensor, "N"]]


def march_reference(
    rays_o: Float[Tensor, "R 3"],
    rays_d: Float[Tensor, "R 3"],
    aabbs: Float[Tensor, "levels 6"],
    binaries: Bool[Tensor, "levels X Y Z"],
    nears: Float[Tensor, "R"],
    fars: Float[Tensor, "R"],
    step: Real,
    cone_angle: Real = 0.0,
) -> Samples:
    """Plain torch: every step of every ray is looked up. Same result as :func:`march`."""
    low, high = aabbs[-1, :3], aabbs[-1, 3:]
    parallel = rays_d == 0
    safe = torch.where(parallel, torch.ones_like(rays_d), rays_d)
    a, b = (low - rays_o) / safe, (high - rays_o) / safe
    outside = (parallel & ((rays_o < low) | (rays_o > high))).any(-1) | parallel.all(-1)
    enter = torch.where(parallel, -torch.inf, torch.minimum(a, b)).amax(-1).maximum(nears)
    leave = torch.where(parallel, torch.inf, torch.maximum(a, b)).amin(-1).minimum(fars)
    leave = torch.where(outside, enter, leave)
    resolution = torch.tensor(binaries.shape[1:], device=rays_o.device)

    found, t, k = [], nears, 0
    while bool((t < leave).any()):
        dt = (t * cone_angle).clamp_min(step)
        t_next = t + dt if cone_angle else nears + (k + 1) * step
        mid = t + 0.5 * dt
        p = rays_o + mid[:, None] * rays_d
        inside = ((p[:, None] >= aabbs[:, :3]) & (p[:, None] <= aabbs[:, 3:])).all(-1)
        inside[:, -1] = True
        level = inside.long().argmax(-1)
        box = aabbs[level]
        cell = ((p - box[:, :3]) / (box[:, 3:] - box[:, :3]) * resolution).long()
        x, y, z = cell.clamp_min(0).minimum(resolution - 1).unbind(-1)
        hit = (mid >= enter) & (mid < leave) & binaries[level, x, y, z]
        rays = hit.nonzero()[:, 0]
        found.append((rays, t[rays], t_next[rays]))
        t, k = t_next, k + 1
    if not found:
        return nears.new_empty(0, dtype=torch.int64), nears.new_empty(0), nears.new_empty(0)
    rays, starts, ends = (torch.cat(part) for part in zip(*found, strict=True))
    order = torch.argsort(rays, stable=True)
    return rays[order], starts[order], ends[order]


def march(
    rays_o: Float[Tensor, "R 3"],
    rays_d: Float[Tensor, "R 3"],
    aabbs: Float[Tensor, "levels 6"],
    binaries: Bool[Tensor, "levels X Y Z"],
    nears: Float[Tensor, "R"],
    fars: Float[Tensor, "R"],
    step: Real,
    cone_angle: Real = 0.0,
) -> Samples:
    """Samples in occupied cells, in two passes: count, then write. Float32 only.

    Step k of a ray spans near + k step .. near + (k + 1) step; with ``cone_angle`` > 0 it has
    length max(step, t cone_angle). A ray of direction zero has no samples.
    """
    from threestudio_asd.kernels._ray_kernels import build_march

    wp, n_rays, device = warp(), rays_o.shape[0], rays_o.device
    points = [as_array(v.contiguous(), wp.vec3) for v in (rays_o, rays_d)]
    arrays = [v.contiguous() for v in (nears, fars, aabbs, binaries.view(torch.uint8))]
    threads = threads_for(n_rays, n_rays * 64, device)

    def run(write: int, tensors: list[Tensor]) -> None:
        begins, *outputs = (as_array(v) for v in tensors)
        args = [*points, *map(as_array, arrays), step, cone_angle, begins, write, *outputs]
        launch_split(build_march(), n_rays, args, device, threads)

    counts = torch.zeros(n_rays, dtype=torch.int64, device=device)
    nothing = counts.new_empty(1)
    if n_rays:
        run(0, [nothing, counts, nothing, nears, nears])
    total = int(counts.sum())
    rays = torch.empty(total, dtype=torch.int64, device=device)
    starts, ends = rays_o.new_empty(total), rays_o.new_empty(total)
    if total:
        run(1, [counts.cumsum(0) - counts, nothing, rays, starts, ends])
    return rays, starts, ends
