"""Warp kernels over rays: marching through an occupancy grid, sums over the samples of a ray."""

import functools
from types import SimpleNamespace
from typing import no_type_check

import torch

from threestudio_asd.kernels._warp import scalar_type, warp

wp = warp()


@no_type_check  # annotations of kernels are Warp types
@functools.cache
def build_march() -> SimpleNamespace:
    """The ray marcher, float32; one work item is a ray."""
    module = wp.get_module(f"{__name__}.march")
    Box = wp.types.matrix((2, 3), float)

    @wp.func
    def box_of(aabbs: wp.array2d(dtype=float), level: int):
        return Box(
            aabbs[level, 0], aabbs[level, 1], aabbs[level, 2],
            aabbs[level, 3], aabbs[level, 4], aabbs[level, 5],
        )  # fmt: skip

    @wp.func
    def slab(o: wp.vec3, d: wp.vec3, low: wp.vec3, high: wp.vec3, near: float, far: float):
        """[enter, leave) of the ray in the box, cut to [near, far); empty if enter >= leave."""
        enter = near
        leave = far
        if d[0] == 0.0 and d[1] == 0.0 and d[2] == 0.0:
            leave = enter
        for axis in range(3):
            if d[axis] != 0.0:
                a = (low[axis] - o[axis]) / d[axis]
                b = (high[axis] - o[axis]) / d[axis]
                enter = wp.max(enter, wp.min(a, b))
                leave = wp.min(leave, wp.max(a, b))
            elif o[axis] < low[axis] or o[axis] > high[axis]:
                leave = enter
        return wp.vec2(enter, leave)

    @wp.func
    def finest_level(p: wp.vec3, aabbs: wp.array2d(dtype=float)):
        level = int(0)
        while level < aabbs.shape[0] - 1:
            box = box_of(aabbs, level)
            if (
                p[0] >= box[0, 0] and p[1] >= box[0, 1] and p[2] >= box[0, 2]
                and p[0] <= box[1, 0] and p[1] <= box[1, 1] and p[2] <= box[1, 2]
            ):  # fmt: skip
                break
            level += 1
        return level

    @wp.func
    def steps_before(t: float, near: float, step: float):
        """The last k whose midpoint near + (k + 1/2) step is not after t."""
        return int(wp.clamp((t - near) / step - 0.5, 0.0, 1.0e9))

    @wp.kernel(module=module, enable_backward=False)
    def march(
        first: int, stride: int, rays_o: wp.array(dtype=wp.vec3), rays_d: wp.array(dtype=wp.vec3),
        nears: wp.array(dtype=float), fars: wp.array(dtype=float),
        aabbs: wp.array2d(dtype=float), grid: wp.array4d(dtype=wp.uint8),
        step: float, cone: float, begins: wp.array(dtype=wp.int64), write: int,
        counts: wp.array(dtype=wp.int64), ray_indices: wp.array(dtype=wp.int64),
        starts: wp.array(dtype=float), ends: wp.array(dtype=float),
    ):  # fmt: skip
        item, _inner = wp.tid()
        ray = first + stride * item
        o = rays_o[ray]
        d = rays_d[ray]
        near = nears[ray]
        outer = box_of(aabbs, aabbs.shape[0] - 1)
        span = slab(o, d, outer[0], outer[1], near, fars[ray])
        res = wp.vec3(float(grid.shape[1]), float(grid.shape[2]), float(grid.shape[3]))
        count = wp.int64(0)
        k = int(0)
        t = near
        if cone == 0.0:
            k = steps_before(span[0], near, step)
            t = near + float(k) * step
        while span[0] < span[1]:
            dt = wp.max(step, t * cone)
            mid = t + 0.5 * dt
            if mid >= span[1]:
                break
            k_next = k + 1
            t_next = t + dt
            if cone == 0.0:
                t_next = near + float(k_next) * step
            elif t_next <= t:
                break  # the step vanishes in float32's rounding
            if mid >= span[0]:
                p = o + mid * d
                level = finest_level(p, aabbs)
                box = box_of(aabbs, level)
                cell = wp.cw_div(box[1] - box[0], res)
                q = wp.cw_div(p - box[0], cell)
                # The clamp catches midpoints that rounding puts behind a face.
                x = wp.clamp(int(q[0]), 0, grid.shape[1] - 1)
                y = wp.clamp(int(q[1]), 0, grid.shape[2] - 1)
                z = wp.clamp(int(q[2]), 0, grid.shape[3] - 1)
                if grid[level, x, y, z] != wp.uint8(0):
                    if write != 0:
                        at = begins[ray] + count
                        ray_indices[at] = wp.int64(ray)
                        starts[at] = t
                        ends[at] = t_next
                    count += wp.int64(1)
                elif cone == 0.0 and level == 0:
                    # Leap to the last midpoint in this empty cell (which no finer level covers).
                    low = box[0] + wp.cw_mul(cell, wp.vec3(float(x), float(y), float(z)))
                    inside = slab(o, d, low, low + cell, near, span[1])
                    k_next = wp.max(k_next, steps_before(inside[1], near, step))
                    t_next = near + float(k_next) * step
            k = k_next
            t = t_next
        if write == 0:
            counts[ray] = count

    return SimpleNamespace(march=march)


@no_type_check
@functools.cache
def build_sums(dtype: torch.dtype) -> SimpleNamespace:
    """Sums over the samples of each ray, in float32 or float64."""
    Real = scalar_type(dtype)
    module = wp.get_module(f"{__name__}.sums_{Real.__name__}")
    kernel = functools.partial(wp.kernel, module=module, enable_backward=False)

    @kernel
    def exclusive_sum(
        first: int, stride: int, packs: wp.array2d(dtype=wp.int64), values: wp.array(dtype=Real),
        reverse: int, out: wp.array(dtype=Real),
    ):  # fmt: skip
        item, _inner = wp.tid()
        ray = first + stride * item
        begin = packs[ray, 0]
        count = int(packs[ray, 1])
        total = Real(0.0)
        for k in range(count):
            i = begin + wp.int64(k)
            if reverse != 0:
                i = begin + wp.int64(count - 1 - k)
            out[i] = total
            total += values[i]

    @kernel
    def scatter_add(
        first: int, stride: int, rays: wp.array(dtype=wp.int64), values: wp.array2d(dtype=Real),
        out: wp.array2d(dtype=Real),
    ):  # fmt: skip
        item, _inner = wp.tid()
        i = first + stride * item
        for c in range(values.shape[1]):
            wp.atomic_add(out, rays[i], wp.int64(c), values[i, c])

    return SimpleNamespace(exclusive_sum=exclusive_sum, scatter_add=scatter_add)
