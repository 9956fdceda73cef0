"""Where on its triangle a pixel lies, and attributes there, in Warp.

Layout of arrays as in :mod:`._raster_kernels`; one work item is a row of pixels, ``inner`` a
column. Sums over pixels have one copy per thread (``first`` is the thread on the CPU).
"""

from types import SimpleNamespace
from typing import no_type_check

import torch

from threestudio_asd.kernels._raster_kernels import Double, Triangles, build_loads, kernel
from threestudio_asd.kernels._warp import made_once, warp

wp = warp()


@no_type_check
@made_once
def build_shade(dtype: torch.dtype) -> SimpleNamespace:
    """Barycentrics, depth and their derivatives; one work item is a row, ``inner`` a column."""
    loads = build_loads(dtype)
    Real, Vec4, Positions, Picture = loads.Real, loads.Vec4, loads.Positions, loads.Picture
    load, centre, seen_from = loads.load, loads.centre, loads.seen_from
    triangle_at = loads.triangle_at

    @wp.func
    def areas(a: wp.vec3d, b: wp.vec3d, c: wp.vec3d):
        return wp.vec3d(
            b[0] * c[1] - c[0] * b[1], c[0] * a[1] - a[0] * c[1], a[0] * b[1] - b[0] * a[1]
        )

    @kernel
    def shade(
        first: int, stride: int, height: int, pos: Positions, tri: Triangles,
        keys: wp.array2d(dtype=wp.int64), rast: Picture, rast_db: Picture,
    ):  # fmt: skip
        item, x = wp.tid()
        row = first + stride * item
        image = row // height
        width = keys.shape[1]
        key = keys[row, x]
        if key == wp.int64(9223372036854775807):  # EMPTY
            return
        t = int(key & wp.int64(4294967295))
        px = centre(x, width)
        py = centre(row % height, height)
        pa = load(pos, image, tri[t, 0])
        pb = load(pos, image, tri[t, 1])
        pc = load(pos, image, tri[t, 2])
        a = seen_from(pa, px, py)
        b = seen_from(pb, px, py)
        c = seen_from(pc, px, py)
        e = areas(a, b, c)
        s = e[0] + e[1] + e[2]
        u = e[0] / s
        v = e[1] / s
        z = (e[0] * pa[2] + e[1] * pb[2] + e[2] * pc[2]) / wp.dot(e, wp.vec3d(a[2], b[2], c[2]))
        rast[row, x] = Vec4(
            Real(wp.clamp(u, Double(0.0), Double(1.0))),
            Real(wp.clamp(v, Double(0.0), Double(1.0))), Real(z), Real(t + 1),
        )  # fmt: skip
        # d areas / d pixel, in x and in y.
        ex = wp.vec3d(
            b[1] * c[2] - c[1] * b[2], c[1] * a[2] - a[1] * c[2], a[1] * b[2] - b[1] * a[2]
        )
        ey = wp.vec3d(
            c[0] * b[2] - b[0] * c[2], a[0] * c[2] - c[0] * a[2], b[0] * a[2] - a[0] * b[2]
        )
        fx = Double(2.0) / (Double(width) * s)
        fy = Double(2.0) / (Double(height) * s)
        sx = ex[0] + ex[1] + ex[2]
        sy = ey[0] + ey[1] + ey[2]
        rast_db[row, x] = Vec4(
            Real(fx * (ex[0] - u * sx)), Real(fy * (ey[0] - u * sy)),
            Real(fx * (ex[1] - v * sx)), Real(fy * (ey[1] - v * sy)),
        )  # fmt: skip

    @wp.func
    def add(
        pos_g: wp.array3d(dtype=Vec4), thread: int, image: int, vertex: int, g: wp.vec2d,
        px: Double, py: Double,
    ):  # fmt: skip
        g4 = Vec4(Real(g[0]), Real(g[1]), Real(0.0), Real(-px * g[0] - py * g[1]))
        wp.atomic_add(pos_g, thread, wp.min(image, pos_g.shape[1] - 1), vertex, g4)

    @kernel
    def shade_grad(
        first: int, stride: int, height: int, pos: Positions, tri: Triangles, rast: Picture,
        rast_g: Picture, pos_g: wp.array3d(dtype=Vec4),
    ):  # fmt: skip
        item, x = wp.tid()
        row = first + stride * item
        t = triangle_at(rast, row, x, tri.shape[0])
        gu = Double(rast_g[row, x][0])
        gv = Double(rast_g[row, x][1])
        if t < 0 or (gu == Double(0.0) and gv == Double(0.0)):
            return
        image = row // height
        px = centre(x, rast.shape[1])
        py = centre(row % height, height)
        a = seen_from(load(pos, image, tri[t, 0]), px, py)
        b = seen_from(load(pos, image, tri[t, 1]), px, py)
        c = seen_from(load(pos, image, tri[t, 2]), px, py)
        e = areas(a, b, c)
        s = e[0] + e[1] + e[2]
        mean = (gu * e[0] + gv * e[1]) / s
        h = wp.vec3d((gu - mean) / s, (gv - mean) / s, -mean / s)
        ga = wp.vec2d(h[2] * b[1] - h[1] * c[1], h[1] * c[0] - h[2] * b[0])
        gb = wp.vec2d(h[0] * c[1] - h[2] * a[1], h[2] * a[0] - h[0] * c[0])
        gc = wp.vec2d(h[1] * a[1] - h[0] * b[1], h[0] * b[0] - h[1] * a[0])
        add(pos_g, first, image, tri[t, 0], ga, px, py)
        add(pos_g, first, image, tri[t, 1], gb, px, py)
        add(pos_g, first, image, tri[t, 2], gc, px, py)

    return SimpleNamespace(shade=shade, shade_grad=shade_grad)


@no_type_check
@made_once
def build_interpolate(dtype: torch.dtype) -> SimpleNamespace:
    """Attributes (images or 1, Nv, C) at the pixels, and their derivatives."""
    loads = build_loads(dtype)
    Real, Vec4, Picture, triangle_at = loads.Real, loads.Vec4, loads.Picture, loads.triangle_at
    Table = wp.array3d(dtype=Real)

    @kernel
    def interpolate(
        first: int, stride: int, height: int, attr: Table, rast: Picture, tri: Triangles,
        out: Table,
    ):  # fmt: skip
        item, x = wp.tid()
        row = first + stride * item
        t = triangle_at(rast, row, x, tri.shape[0])
        if t < 0:
            return
        image = wp.min(row // height, attr.shape[0] - 1)
        u = rast[row, x][0]
        v = rast[row, x][1]
        w = Real(1.0) - u - v
        for k in range(attr.shape[2]):
            a = attr[image, tri[t, 0], k]
            b = attr[image, tri[t, 1], k]
            c = attr[image, tri[t, 2], k]
            out[row, x, k] = u * a + v * b + w * c

    @kernel
    def interpolate_grad(
        first: int, stride: int, height: int, attr: Table, rast: Picture, tri: Triangles,
        g: Table, attr_g: wp.array4d(dtype=Real), rast_g: Picture,
    ):  # fmt: skip
        item, x = wp.tid()
        row = first + stride * item
        t = triangle_at(rast, row, x, tri.shape[0])
        if t < 0:
            return
        image = wp.min(row // height, attr.shape[0] - 1)
        u = rast[row, x][0]
        v = rast[row, x][1]
        w = Real(1.0) - u - v
        u_g = Real(0.0)
        v_g = Real(0.0)
        for k in range(attr.shape[2]):
            up = g[row, x, k]
            c = attr[image, tri[t, 2], k]
            u_g += up * (attr[image, tri[t, 0], k] - c)
            v_g += up * (attr[image, tri[t, 1], k] - c)
            wp.atomic_add(attr_g, first, image, tri[t, 0], k, u * up)
            wp.atomic_add(attr_g, first, image, tri[t, 1], k, v * up)
            wp.atomic_add(attr_g, first, image, tri[t, 2], k, w * up)
        rast_g[row, x] = Vec4(u_g, v_g, Real(0.0), Real(0.0))

    return SimpleNamespace(interpolate=interpolate, interpolate_grad=interpolate_grad)
