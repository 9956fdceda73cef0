"""Warp kernels over rays: marching through an occupancy grid, sums over the samples of a ray."""

from typing import Any, no_type_check

import torch

from threestudio_asd.kernels._warp import made_once, scalar_type, warp

wp = warp()


@no_type_check  # annotations of kernels are Warp types
@made_once
def build_march() -> Any:
    """The ray marcher, float32; one work item is a ray; ``write`` 0 counts, 1 writes.

    It works in cells of the finest grid, relative to the common centre of the nested boxes:
    q = (o - centre) / cell + t d / cell, so level l, of cells 2^l as large, holds all |q| <= 2^l h
    with h half the resolution. Every step is looked up: leaping over empty cells cost more.
    """

    @wp.func
    def inside(q: wp.vec3, half: wp.vec3):
        return wp.abs(q[0]) <= half[0] and wp.abs(q[1]) <= half[1] and wp.abs(q[2]) <= half[2]

    @wp.func
    def slab(o: wp.vec3, d: wp.vec3, half: wp.vec3, near: float, far: float):
        """[enter, leave) of the ray in the box |q| <= half, cut to [near, far)."""
        enter = near
        leave = far
        for axis in range(3):
            if d[axis] != 0.0:
                middle = -o[axis] / d[axis]
                reach = wp.abs(half[axis] / d[axis])
                enter = wp.max(enter, middle - reach)
                leave = wp.min(leave, middle + reach)
            elif wp.abs(o[axis]) > half[axis]:
                leave = enter
        if wp.length_sq(d) == 0.0:
            leave = enter
        return wp.vec2(enter, leave)

    @wp.func
    def steps_before(t: float, near: float, step: float):
        """The last k whose midpoint near + (k + 1/2) step is not after t."""
        return int(wp.clamp((t - near) / step - 0.5, 0.0, 1.0e9))

    @wp.kernel(module="unique", enable_backward=False)
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
        box_low = wp.vec3(aabbs[0, 0], aabbs[0, 1], aabbs[0, 2])
        box_high = wp.vec3(aabbs[0, 3], aabbs[0, 4], aabbs[0, 5])
        half = 0.5 * wp.vec3(float(grid.shape[1]), float(grid.shape[2]), float(grid.shape[3]))
        cell = wp.cw_div(box_high - box_low, 2.0 * half)
        o = wp.cw_div(rays_o[ray] - 0.5 * (box_low + box_high), cell)
        d = wp.cw_div(rays_d[ray], cell)
        top = grid.shape[0] - 1
        near = nears[ray]
        span = slab(o, d, half * float(1 << top), near, fars[ray])
        count = wp.int64(0)
        k = wp.int32(0)
        t = near
        if cone == 0.0:
            k = steps_before(span[0], near, step)
            t = near + float(k) * step
        while span[0] < span[1]:
            dt = wp.max(step, t * cone)
            mid = t + 0.5 * dt
            if mid >= span[1]:
                break
            k += 1
            t_next = t + dt
            if cone == 0.0:
                t_next = near + float(k) * step
            elif t_next <= t:
                break  # the step vanishes in float32's rounding
            if mid >= span[0]:
                q = o + mid * d
                level = wp.int32(0)
                while level < top and not inside(q, half):
                    q = 0.5 * q
                    level += 1
                q = q + half
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
            t = t_next
        if write == 0:
            counts[ray] = count

    return march


@no_type_check
@made_once
def build_exclusive_sum(dtype: torch.dtype) -> Any:
    """Per ray, the sum of the values before (``reverse``: after) each; float32 or float64."""
    Real = scalar_type(dtype)

    @wp.kernel(module="unique", enable_backward=False)
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

    return exclusive_sum
