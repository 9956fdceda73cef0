"""Which triangle a pixel sees, in Warp; :mod:`.rasterize` holds mathematics and API.

Positions may be float32 or float64; everything between them and the result is float64, and no
multiplication is fused with an addition: an edge seen from its two sides must give numbers that
differ in nothing but their sign.

Arrays: ``pos`` (images or 1, Nv) of 4-vectors, ``tri`` (Nt, 3), ``ranges`` (images) of (first
triangle, count); pictures have one row of the array per row of an image, (images * H, W).
"""

import functools
from types import SimpleNamespace
from typing import Any, no_type_check

import torch

from threestudio_asd.kernels._warp import made_once, scalar_type, warp

wp = warp()

kernel = functools.partial(
    wp.kernel, module="unique", enable_backward=False, module_options={"fuse_fp": False}
)
Double = wp.float64
Triangles = wp.array2d(dtype=wp.int32)
#: What a pixel holds before anything is drawn: behind every depth, after every triangle.
EMPTY = 2**63 - 1


@no_type_check  # annotations of kernels are Warp types
@made_once
def build_loads(dtype: torch.dtype) -> SimpleNamespace:
    """Functions that read vertices and pixels, for positions and pictures of ``dtype``."""
    Real = scalar_type(dtype)
    Vec4 = wp.types.vector(4, Real)
    Positions = wp.array2d(dtype=Vec4)
    Picture = wp.array2d(dtype=Vec4)

    @wp.func
    def load(pos: Positions, image: int, vertex: int):
        """A vertex (x, y, z, w); one set of vertices may serve all images."""
        p = pos[wp.min(image, pos.shape[0] - 1), vertex]
        return wp.vec4d(Double(p[0]), Double(p[1]), Double(p[2]), Double(p[3]))

    @wp.func
    def centre(index: int, size: int):
        """Where a pixel's centre lies between -1 and 1."""
        return Double(2 * index + 1 - size) / Double(size)

    @wp.func
    def seen_from(p: wp.vec4d, px: Double, py: Double):
        """(x, y, w) with the pixel's centre moved to the origin."""
        return wp.vec3d(p[0] - px * p[3], p[1] - py * p[3], p[3])

    @wp.func
    def triangle_at(rast: Picture, row: int, x: int, n_triangles: int):
        """The triangle that a pixel shows, or -1."""
        t = int(rast[row, x][3]) - 1
        return wp.where(t < n_triangles, t, -1)

    return SimpleNamespace(
        Real=Real, Vec4=Vec4, Positions=Positions, Picture=Picture,
        load=load, centre=centre, seen_from=seen_from, triangle_at=triangle_at,
    )  # fmt: skip


@no_type_check
@made_once
def build_cover(dtype: torch.dtype) -> Any:
    """Depth and triangle of every pixel, in one integer.

    A work item is every ``bands``-th row of an image and ``chunk`` triangles. On the CPU the bands
    are the threads, which so never write to the same memory, and one chunk holds all triangles;
    on CUDA a chunk is one triangle.
    """
    loads = build_loads(dtype)
    Positions, load = loads.Positions, loads.load

    @wp.func
    def spatial(p: wp.vec4d):
        return wp.vec3d(p[0], p[1], p[3])

    @wp.func
    def edge(a: wp.vec4d, b: wp.vec4d, width: int, height: int, sign: Double):
        """The line through a and b, as a function of the integers 2 x + 1 - W, 2 y + 1 - H, 1."""
        line = sign * wp.cross(spatial(a), spatial(b))
        w = Double(width)
        h = Double(height)
        return wp.vec3d(h * line[0], w * line[1], w * h * line[2])

    @wp.func
    def holds(value: Double, line: wp.vec3d):
        """Of the centres on the line itself, a triangle has those on its left and lower edges."""
        if value == Double(0.0):
            return line[0] > Double(0.0) or (line[0] == Double(0.0) and line[1] > Double(0.0))
        return value > Double(0.0)

    @wp.func
    def extended(box: wp.vec4d, p: wp.vec4d):
        x = p[0] / p[3]
        y = p[1] / p[3]
        if p[3] <= Double(0.0):  # in front of the near plane, behind the eye: no projection
            return wp.vec4d(Double(-1.0), Double(-1.0), Double(1.0), Double(1.0))
        return wp.vec4d(wp.min(box[0], x), wp.min(box[1], y), wp.max(box[2], x), wp.max(box[3], y))

    @wp.func
    def extended_by_crossing(box: wp.vec4d, a: wp.vec4d, b: wp.vec4d):
        """With the point where the edge ab meets the near plane z = -w, if it does."""
        before = a[2] + a[3]
        behind = b[2] + b[3]
        if before * behind < Double(0.0):
            return extended(box, (behind * a - before * b) / (behind - before))
        return box

    @wp.func
    def bounds(a: wp.vec4d, b: wp.vec4d, c: wp.vec4d):
        """Box (x0, y0, x1, y1) of what lies beyond the near plane; x0 > x1 if nothing does."""
        box = wp.vec4d(Double(1e9), Double(1e9), Double(-1e9), Double(-1e9))
        if a[2] + a[3] >= Double(0.0):
            box = extended(box, a)
        if b[2] + b[3] >= Double(0.0):
            box = extended(box, b)
        if c[2] + c[3] >= Double(0.0):
            box = extended(box, c)
        box = extended_by_crossing(box, a, b)
        box = extended_by_crossing(box, b, c)
        return extended_by_crossing(box, c, a)

    @wp.func
    def pixel(coordinate: Double, size: int):
        """-1..1 in pixels, their centres on integers; far outside stays just outside."""
        at = (coordinate + Double(1.0)) * Double(size) * Double(0.5) - Double(0.5)
        return wp.clamp(at, Double(-2.0), Double(size) + Double(2.0))

    @wp.func
    def depth_key(z: Double, triangle: int):
        """The depth in steps of 2^-30, then the triangle: the least of a pixel's keys is seen."""
        step = wp.int64((z + Double(1.0)) * Double(1073741824.0))
        return wp.min(step, wp.int64(2147483647)) * wp.int64(4294967296) + wp.int64(triangle)

    @wp.func
    def draw(
        triangle: int, a: wp.vec4d, b: wp.vec4d, c: wp.vec4d, image: int, band: int, bands: int,
        keys: wp.array3d(dtype=wp.int64),
    ):  # fmt: skip
        height = keys.shape[1]
        width = keys.shape[2]
        volume = wp.dot(spatial(a), wp.cross(spatial(b), spatial(c)))
        box = bounds(a, b, c)
        slack = Double(0.01)  # of a pixel, for the rounding of the divisions
        x0 = wp.max(int(wp.ceil(pixel(box[0], width) - slack)), 0)
        x1 = wp.min(int(wp.floor(pixel(box[2], width) + slack)), width - 1)
        y0 = wp.max(int(wp.ceil(pixel(box[1], height) - slack)), 0)
        y1 = wp.min(int(wp.floor(pixel(box[3], height) + slack)), height - 1)
        # A volume of zero, infinity or NaN draws nothing.
        if wp.abs(volume) > Double(0.0) and wp.isfinite(volume) and x0 <= x1:
            sign = wp.sign(volume)
            e0 = edge(b, c, width, height, sign)
            e1 = edge(c, a, width, height, sign)
            e2 = edge(a, b, width, height, sign)
            for y in range(y0 + (band - y0 % bands + bands) % bands, y1 + 1, bands):
                q = Double(2 * y + 1 - height)
                row = wp.vec3d(e0[1] * q + e0[2], e1[1] * q + e1[2], e2[1] * q + e2[2])
                for x in range(x0, x1 + 1):
                    p = Double(2 * x + 1 - width)
                    s0 = e0[0] * p + row[0]
                    s1 = e1[0] * p + row[1]
                    s2 = e2[0] * p + row[2]
                    if holds(s0, e0) and holds(s1, e1) and holds(s2, e2):
                        z = s0 * a[2] + s1 * b[2] + s2 * c[2]
                        z = z / (s0 * a[3] + s1 * b[3] + s2 * c[3])
                        if z >= Double(-1.0) and z <= Double(1.0):
                            wp.atomic_min(keys, image, y, x, depth_key(z, triangle))

    @kernel
    def cover(
        first: int, stride: int, chunk: int, bands: int, pos: Positions, tri: Triangles,
        ranges: wp.array(dtype=wp.vec2i), keys: wp.array3d(dtype=wp.int64),
    ):  # fmt: skip
        item, block = wp.tid()
        index = first + stride * item
        image = index // bands
        part = ranges[image]
        for k in range(block * chunk, wp.min((block + 1) * chunk, part[1])):
            t = part[0] + k
            draw(
                t, load(pos, image, tri[t, 0]), load(pos, image, tri[t, 1]),
                load(pos, image, tri[t, 2]), image, index % bands, bands, keys,
            )  # fmt: skip

    return cover
