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

from threestudio_asd.kernels._warp import scalar_type, warp

wp = warp()

PRIME_Y = wp.constant(wp.uint32(2654435761))
PRIME_Z = wp.constant(wp.uint32(805459861))


@no_type_check  # annotations of kernels are Warp types
@functools.cache
def build(n_features: int, dtype: torch.dtype) -> SimpleNamespace:
    """The kernels for F features per level in float32 or float64, in a Warp module of their own."""
    Real = scalar_type(dtype)
    Feature = wp.types.vector(n_features, Real)
    Point = wp.types.vector(3, Real)
    Weights = wp.types.vector(8, Real)
    Corners = wp.types.vector(8, wp.int32)

    @wp.struct
    class Level:
        """One resolution level of the grid: table rows ``offset .. offset + size - 1``."""

        offset: wp.int32
        size: wp.uint32
        resolution: wp.uint32
        hashed: wp.int32

    Rows = wp.array(dtype=Feature)
    Points = wp.array(dtype=Point)
    Scales = wp.array(dtype=Real)
    Levels = wp.array(dtype=Level)
    module = wp.get_module(f"{__name__}.f{n_features}_{Real.__name__}")
    kernel = functools.partial(wp.kernel, module=module, enable_backward=False)

    @wp.func
    def corner_rows(level: Level, x: wp.uint32, y: wp.uint32, z: wp.uint32):
        """Table rows of a cell's eight corners, x fastest; indices wrap, so they are always inside."""
        one = wp.uint32(1)
        rows = Corners()
        if level.hashed != 0:
            mask = level.size - one  # a hashed level is as large as the table: a power of two
            for k in range(8):
                h = (x + wp.uint32(k & 1)) ^ ((y + wp.uint32((k >> 1) & 1)) * PRIME_Y)
                h = h ^ ((z + wp.uint32(k >> 2)) * PRIME_Z)
                rows[k] = level.offset + wp.int32(h & mask)
        else:
            r = level.resolution
            first = x + r * (y + r * z)
            last = first + one + r + r * r
            if first < level.size and last < level.size:
                for k in range(8):
                    step = (
                        wp.uint32(k & 1) + r * wp.uint32((k >> 1) & 1) + r * r * wp.uint32(k >> 2)
                    )
                    rows[k] = level.offset + wp.int32(first + step)
            else:
                for k in range(8):
                    step = (
                        wp.uint32(k & 1) + r * wp.uint32((k >> 1) & 1) + r * r * wp.uint32(k >> 2)
                    )
                    rows[k] = level.offset + wp.int32((first + step) % level.size)
        return rows

    @wp.func
    def position(x: Point, scale: Real):
        return x * scale + Point(Real(0.5))

    @wp.func
    def cell(p: Point, level: Level):
        return corner_rows(
            level,
            wp.uint32(wp.int32(wp.floor(p[0]))),
            wp.uint32(wp.int32(wp.floor(p[1]))),
            wp.uint32(wp.int32(wp.floor(p[2]))),
        )

    @wp.func
    def fraction(p: Point):
        return Point(p[0] - wp.floor(p[0]), p[1] - wp.floor(p[1]), p[2] - wp.floor(p[2]))

    @wp.func
    def product(ax: Real, bx: Real, ay: Real, by: Real, az: Real, bz: Real):
        """Per corner, the product of the a (low side) or b (high side) factor of each axis."""
        w = Weights()
        for k in range(8):
            w[k] = (
                wp.where((k & 1) != 0, bx, ax)
                * wp.where((k & 2) != 0, by, ay)
                * wp.where((k & 4) != 0, bz, az)
            )
        return w

    @wp.func
    def weights(t: Point):
        """Trilinear weights w_c(t)."""
        one = Real(1.0)
        return product(one - t[0], t[0], one - t[1], t[1], one - t[2], t[2])

    @wp.func
    def slopes(t: Point, axis: int):
        """d w_c / d t_axis."""
        one = Real(1.0)
        if axis == 0:
            return product(-one, one, one - t[1], t[1], one - t[2], t[2])
        if axis == 1:
            return product(one - t[0], t[0], -one, one, one - t[2], t[2])
        return product(one - t[0], t[0], one - t[1], t[1], -one, one)

    @kernel
    def encode(
        first: int, stride: int, chunk: int, x: Points, table: Rows, levels: Levels,
        scales: Scales, y: Rows,
    ):  # fmt: skip
        item, block = wp.tid()
        l = first + stride * item
        level = levels[l]
        scale = scales[l]
        n_levels = levels.shape[0]
        for i in range(block * chunk, wp.min((block + 1) * chunk, x.shape[0])):
            p = position(x[i], scale)
            rows = cell(p, level)
            w = weights(fraction(p))
            out = Feature(Real(0.0))
            for k in range(8):
                out += w[k] * table[rows[k]]
            y[i * n_levels + l] = out

    @kernel
    def table_grad(
        first: int, stride: int, chunk: int, x: Points, g: Rows, levels: Levels,
        scales: Scales, table_g: Rows,
    ):  # fmt: skip
        item, block = wp.tid()
        l = first + stride * item
        level = levels[l]
        scale = scales[l]
        n_levels = levels.shape[0]
        for i in range(block * chunk, wp.min((block + 1) * chunk, x.shape[0])):
            p = position(x[i], scale)
            rows = cell(p, level)
            w = weights(fraction(p))
            gi = g[i * n_levels + l]
            for k in range(8):
                wp.atomic_add(table_g, rows[k], w[k] * gi)

    @kernel
    def point_grad(
        first: int, stride: int, chunk: int, x: Points, table: Rows, g: Rows, levels: Levels,
        scales: Scales, x_g: wp.array2d(dtype=Point),
    ):  # fmt: skip
        item, block = wp.tid()
        l = first + stride * item
        level = levels[l]
        scale = scales[l]
        n_levels = levels.shape[0]
        for i in range(block * chunk, wp.min((block + 1) * chunk, x.shape[0])):
            p = position(x[i], scale)
            rows = cell(p, level)
            t = fraction(p)
            gi = g[i * n_levels + l]
            wx = slopes(t, 0)
            wy = slopes(t, 1)
            wz = slopes(t, 2)
            out = Point(Real(0.0))
            for k in range(8):
                out += wp.dot(table[rows[k]], gi) * Point(wx[k], wy[k], wz[k])
            wp.atomic_add(x_g, first, i, scale * out)

    @kernel
    def point_grad_backward(
        first: int, stride: int, chunk: int, x: Points, table: Rows, g: Rows, u: Points,
        levels: Levels, scales: Scales, x_g: wp.array2d(dtype=Point), table_g: Rows, g_g: Rows,
    ):  # fmt: skip
        item, block = wp.tid()
        l = first + stride * item
        level = levels[l]
        scale = scales[l]
        n_levels = levels.shape[0]
        one = Real(1.0)
        for i in range(block * chunk, wp.min((block + 1) * chunk, x.shape[0])):
            p = position(x[i], scale)
            rows = cell(p, level)
            t = fraction(p)
            gi = g[i * n_levels + l]
            ui = u[i] * scale
            wx = slopes(t, 0)
            wy = slopes(t, 1)
            wz = slopes(t, 2)
            # Trilinear weights have mixed second derivatives only.
            wxy = product(-one, one, -one, one, one - t[2], t[2])
            wxz = product(-one, one, one - t[1], t[1], -one, one)
            wyz = product(one - t[0], t[0], -one, one, -one, one)
            out = Point(Real(0.0))
            g_out = Feature(Real(0.0))
            for k in range(8):
                row = table[rows[k]]
                along = ui[0] * wx[k] + ui[1] * wy[k] + ui[2] * wz[k]
                g_out += along * row
                wp.atomic_add(table_g, rows[k], along * gi)
                out += wp.dot(row, gi) * Point(
                    ui[1] * wxy[k] + ui[2] * wxz[k],
                    ui[0] * wxy[k] + ui[2] * wyz[k],
                    ui[0] * wxz[k] + ui[1] * wyz[k],
                )
            g_g[i * n_levels + l] = g_out
            wp.atomic_add(x_g, first, i, scale * out)

    return SimpleNamespace(
        Level=Level, Feature=Feature, Point=Point, encode=encode, table_grad=table_grad,
        point_grad=point_grad, point_grad_backward=point_grad_backward,
    )  # fmt: skip
