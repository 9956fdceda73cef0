"""Warp kernels of the multiresolution hash grid; :mod:`.hashgrid` holds mathematics and API.

All kernels share one layout. A work item is a level; on the CPU it loops over all points, so that
one level's table stays in the cache and two levels (threads) never write to the same memory; on
CUDA the loop has one point and the launch spreads over the points instead.

Arrays: ``x`` (N*3), ``table`` (entries) of F-vectors, ``y`` and ``g`` (N*L) of F-vectors.
"""

import functools
from types import SimpleNamespace
from typing import no_type_check

import torch

from threestudio_asd.kernels._warp import made_once, scalar_type, warp

wp = warp()


@no_type_check  # annotations of kernels are Warp types
@made_once
def build(n_features: int, dtype: torch.dtype) -> SimpleNamespace:
    """The kernels for F features per level in float32 or float64; each compiles at first launch."""
    Real = scalar_type(dtype)
    Feature = wp.types.vector(n_features, Real)
    Point = wp.types.vector(3, Real)

    @wp.struct
    class Level:
        """One resolution level: table rows ``offset .. offset + size - 1``.

        ``step_y`` and ``step_z`` are the strides of the grid, or the primes of the hash.
        """

        offset: wp.int32
        size: wp.uint32
        step_y: wp.uint32
        step_z: wp.uint32
        hashed: wp.int32

    Rows = wp.array(dtype=Feature)
    Points = wp.array(dtype=Point)
    Scales = wp.array(dtype=Real)
    Levels = wp.array(dtype=Level)
    kernel = functools.partial(wp.kernel, module="unique", enable_backward=False)

    @wp.func
    def row_of(level: Level, low: Point, corner: int):
        """Table row of a cell's corner 0..7 (bits x, y, z); wraps, so it never leaves the table."""
        x = wp.uint32(wp.int32(low[0])) + wp.uint32(corner & 1)
        y = (wp.uint32(wp.int32(low[1])) + wp.uint32((corner >> 1) & 1)) * level.step_y
        z = (wp.uint32(wp.int32(low[2])) + wp.uint32(corner >> 2)) * level.step_z
        row = x + y + z
        if level.hashed != 0:
            # A hashed level has as many rows as the table allows: a power of two.
            row = (x ^ y ^ z) & (level.size - wp.uint32(1))
        elif row >= level.size:
            row = row % level.size
        return level.offset + wp.int32(row)

    @wp.func
    def side(bit: int, t: Real):
        """Linear weight of the high (bit set) or low side of an axis."""
        return wp.where(bit != 0, t, Real(1.0) - t)

    @wp.func
    def slope(bit: int):
        """Derivative of :func:`side`."""
        return wp.where(bit != 0, Real(1.0), Real(-1.0))

    @wp.func
    def floor3(p: Point):
        return Point(wp.floor(p[0]), wp.floor(p[1]), wp.floor(p[2]))

    @kernel
    def encode(
        first: int, stride: int, chunk: int, x: Points, table: Rows, levels: Levels,
        scales: Scales, y: Rows,
    ):  # fmt: skip
        item, block = wp.tid()
        index = first + stride * item
        level = levels[index]
        scale = scales[index]
        n_levels = levels.shape[0]
        for i in range(block * chunk, wp.min((block + 1) * chunk, x.shape[0])):
            p = x[i] * scale + Point(Real(0.5))
            low = floor3(p)
            t = p - low
            out = Feature(Real(0.0))
            for k in range(8):
                w = side(k & 1, t[0]) * side(k & 2, t[1]) * side(k & 4, t[2])
                out += w * table[row_of(level, low, k)]
            y[i * n_levels + index] = out

    @kernel
    def table_grad(
        first: int, stride: int, chunk: int, x: Points, g: Rows, levels: Levels,
        scales: Scales, table_g: Rows,
    ):  # fmt: skip
        item, block = wp.tid()
        index = first + stride * item
        level = levels[index]
        scale = scales[index]
        n_levels = levels.shape[0]
        for i in range(block * chunk, wp.min((block + 1) * chunk, x.shape[0])):
            p = x[i] * scale + Point(Real(0.5))
            low = floor3(p)
            t = p - low
            gi = g[i * n_levels + index]
            for k in range(8):
                w = side(k & 1, t[0]) * side(k & 2, t[1]) * side(k & 4, t[2])
                wp.atomic_add(table_g, row_of(level, low, k), w * gi)

    @kernel
    def point_grad(
        first: int, stride: int, chunk: int, x: Points, table: Rows, g: Rows, levels: Levels,
        scales: Scales, x_g: wp.array2d(dtype=Point),
    ):  # fmt: skip
        item, block = wp.tid()
        index = first + stride * item
        level = levels[index]
        scale = scales[index]
        n_levels = levels.shape[0]
        for i in range(block * chunk, wp.min((block + 1) * chunk, x.shape[0])):
            p = x[i] * scale + Point(Real(0.5))
            low = floor3(p)
            t = p - low
            gi = g[i * n_levels + index]
            out = Point(Real(0.0))
            for k in range(8):
                a = side(k & 1, t[0])
                b = side(k & 2, t[1])
                c = side(k & 4, t[2])
                slopes = Point(slope(k & 1) * b * c, a * slope(k & 2) * c, a * b * slope(k & 4))
                out += wp.dot(table[row_of(level, low, k)], gi) * slopes
            wp.atomic_add(x_g, first, i, scale * out)

    @kernel
    def point_grad_backward(
        first: int, stride: int, chunk: int, x: Points, table: Rows, g: Rows, u: Points,
        levels: Levels, scales: Scales, x_g: wp.array2d(dtype=Point), table_g: Rows, g_g: Rows,
    ):  # fmt: skip
        item, block = wp.tid()
        index = first + stride * item
        level = levels[index]
        scale = scales[index]
        n_levels = levels.shape[0]
        for i in range(block * chunk, wp.min((block + 1) * chunk, x.shape[0])):
            p = x[i] * scale + Point(Real(0.5))
            low = floor3(p)
            t = p - low
            gi = g[i * n_levels + index]
            ui = u[i] * scale
            out = Point(Real(0.0))
            g_out = Feature(Real(0.0))
            for k in range(8):
                a = side(k & 1, t[0])
                b = side(k & 2, t[1])
                c = side(k & 4, t[2])
                da = slope(k & 1)
                db = slope(k & 2)
                dc = slope(k & 4)
                # u · ∇w, and its gradient: only mixed second derivatives are not zero.
                along = ui[0] * da * b * c + ui[1] * a * db * c + ui[2] * a * b * dc
                mixed = Point(
                    da * (ui[1] * db * c + ui[2] * b * dc),
                    db * (ui[0] * da * c + ui[2] * a * dc),
                    dc * (ui[0] * da * b + ui[1] * a * db),
                )
                r = row_of(level, low, k)
                row = table[r]
                g_out += along * row
                wp.atomic_add(table_g, r, along * gi)
                out += wp.dot(row, gi) * mixed
            g_g[i * n_levels + index] = g_out
            wp.atomic_add(x_g, first, i, scale * out)

    return SimpleNamespace(
        Level=Level, Feature=Feature, Point=Point, encode=encode, table_grad=table_grad,
        point_grad=point_grad, point_grad_backward=point_grad_backward,
    )  # fmt: skip
