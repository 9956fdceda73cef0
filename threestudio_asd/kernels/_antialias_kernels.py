"""Warp kernels of edge antialiasing; :mod:`.antialias` holds mathematics and API.

Layout of arrays as in :mod:`._raster_kernels`; one work item is a row of pixels, ``inner`` a
column. Every pixel looks at its four neighbours and writes only to itself, so that a pair of
pixels is looked at twice, but only where their triangles differ.
"""

from types import SimpleNamespace
from typing import no_type_check

import torch

from threestudio_asd.kernels._raster_kernels import Double, Triangles, build_loads, kernel
from threestudio_asd.kernels._warp import made_once, warp

wp = warp()

#: Triangles between two pixels' centres after which a surface counts as going on.
MAX_HOPS = 64


@no_type_check  # annotations of kernels are Warp types
@made_once
def build(dtype: torch.dtype) -> SimpleNamespace:
    """``antialias`` and ``antialias_grad`` for pictures of float32 or float64."""
    loads = build_loads(dtype)
    Real, Vec4, Positions, Picture = loads.Real, loads.Vec4, loads.Positions, loads.Picture
    load, centre, seen_from = loads.load, loads.centre, loads.seen_from
    triangle_at = loads.triangle_at
    Links = wp.array(dtype=wp.int32)
    Colors = wp.array3d(dtype=Real)

    @wp.struct
    class Crossing:
        """Where a silhouette's edge ab runs between a pixel and its neighbour.

        ``taker`` is 1 if the pixel takes ``share`` of its neighbour's colour, 2 if the neighbour
        takes of its, 0 without a silhouette. ``sign`` is d share / dt; ``a_g`` and ``b_g`` are
        dt/d(x, y, w).
        """

        taker: wp.int32
        share: Double
        sign: Double
        a: wp.int32
        b: wp.int32
        a_g: wp.vec3d
        b_g: wp.vec3d

    @wp.func
    def turned(p: wp.vec3d, dx: int):
        """(along, across, w) of (x, y, w) for the direction from one pixel to the other."""
        return wp.where(dx != 0, p, wp.vec3d(p[1], p[0], p[2]))

    @wp.func
    def to_clip(g: wp.vec3d, dx: int, px: Double, py: Double):
        """The gradient by (x, y, w) from that by (along, across, w) relative to the pixel."""
        g = turned(g, dx)
        return wp.vec3d(g[0], g[1], g[2] - px * g[0] - py * g[1])

    @wp.func
    def volume(a: wp.vec3d, b: wp.vec3d, c: wp.vec3d):
        return wp.dot(a, wp.cross(b, c))

    @wp.func
    def onward(
        pos: Positions, tri: Triangles, links: Links, image: int, start: int, a: wp.vec4d,
        b: wp.vec4d, c: wp.vec4d,
    ):  # fmt: skip
        """The edge ab in a triangle that goes on beyond it from abc; -1 on a silhouette."""
        va = wp.vec3d(a[0], a[1], a[3])
        vb = wp.vec3d(b[0], b[1], b[3])
        side = volume(va, vb, wp.vec3d(c[0], c[1], c[3]))
        found = wp.int32(-1)
        at = links[start]
        while at != start and found < 0:
            d = load(pos, image, tri[at // 3, at % 3])
            other = volume(va, vb, wp.vec3d(d[0], d[1], d[3]))
            if (side > Double(0.0) and other < Double(0.0)) or (
                side < Double(0.0) and other > Double(0.0)
            ):
                found = at
            at = links[at]
        return found

    @wp.func
    def is_nearer(rast: Picture, row: int, x: int, t: int, row2: int, x2: int, t2: int):
        """Whether the pixel's triangle t lies before its neighbour's t2; -1 is the background."""
        z = rast[row, x][2]
        z2 = rast[row2, x2][2]
        return t2 < 0 or (t >= 0 and (z < z2 or (z == z2 and t < t2)))

    @wp.func
    def crossing(
        pos: Positions, tri: Triangles, links: Links, rast: Picture, height: int, row: int,
        x: int, dx: int, dy: int,
    ):  # fmt: skip
        found = Crossing()
        width = rast.shape[1]
        y = row % height
        if x + dx < 0 or x + dx >= width or y + dy < 0 or y + dy >= height:
            return found
        t = triangle_at(rast, row, x, tri.shape[0])
        t2 = triangle_at(rast, row + dy, x + dx, tri.shape[0])
        if t == t2:
            return found
        mine = is_nearer(rast, row, x, t, row + dy, x + dx, t2)
        step = Double(dx + dy)
        if not mine:  # look from the neighbour
            t = t2
            x += dx
            y += dy
            step = -step
        image = row // height
        px = centre(x, width)
        py = centre(y, height)
        step = step * Double(wp.where(dx != 0, width, height)) * Double(0.5)
        entry = wp.int32(-1)
        hops = wp.int32(0)
        while hops < MAX_HOPS:
            hops += 1
            exit = wp.int32(-1)
            part = Double(-1e-3)  # 0 at the centre inside the first triangle, but for rounding
            at = Double(0.0)
            w = Double(1.0)
            for k in range(3):
                a = turned(seen_from(load(pos, image, tri[t, (k + 1) % 3]), px, py), dx)
                b = turned(seen_from(load(pos, image, tri[t, (k + 2) % 3]), px, py), dx)
                if k != entry and (a[1] < Double(0.0)) != (b[1] < Double(0.0)):
                    # Where the edge's point on the line between the centres lies from this one.
                    w_k = a[1] * b[2] - b[1] * a[2]
                    at_k = (b[0] * a[1] - a[0] * b[1]) / w_k
                    front = w_k * (a[1] - b[1]) > Double(0.0)  # not behind the eye
                    if front and step * at_k >= part:
                        exit = k
                        part = step * at_k
                        at = at_k
                        w = w_k
            if exit < 0 or part > Double(1.0):
                return found
            ia = tri[t, (exit + 1) % 3]
            ib = tri[t, (exit + 2) % 3]
            pa = load(pos, image, ia)
            pb = load(pos, image, ib)
            next = onward(
                pos, tri, links, image, 3 * t + exit, pa, pb, load(pos, image, tri[t, exit])
            )
            if next < 0:
                a = turned(seen_from(pa, px, py), dx)
                b = turned(seen_from(pb, px, py), dx)
                # How steep the edge is in pixels; at 45 degrees it is looked at from the side.
                steep = wp.abs(w) / Double(wp.where(dx != 0, width, height))
                flat = wp.abs(a[2] * b[0] - b[2] * a[0]) / Double(wp.where(dx != 0, height, width))
                if steep > flat or (steep == flat and dx != 0):
                    # Beyond the border between the pixels the nearer one's colour goes on.
                    found.taker = wp.where(mine == (part < Double(0.5)), 1, 2)
                    found.share = wp.abs(part - Double(0.5))
                    found.sign = wp.where(part < Double(0.5), Double(-1.0), Double(1.0))
                    found.a = ia
                    found.b = ib
                    f = step / w
                    a_g = f * wp.vec3d(-b[1], b[0] - at * b[2], at * b[1])
                    b_g = f * wp.vec3d(a[1], at * a[2] - a[0], -at * a[1])
                    found.a_g = to_clip(a_g, dx, px, py)
                    found.b_g = to_clip(b_g, dx, px, py)
                return found
            t = next // 3
            entry = next % 3
        return found

    @kernel
    def antialias(
        first: int, stride: int, height: int, pos: Positions, tri: Triangles, links: Links,
        rast: Picture, color: Colors, out: Colors,
    ):  # fmt: skip
        item, x = wp.tid()
        row = first + stride * item
        for side in range(4):
            dx = wp.where(side < 2, 2 * side - 1, 0)
            dy = wp.where(side < 2, 0, 2 * side - 5)
            c = crossing(pos, tri, links, rast, height, row, x, dx, dy)
            if c.taker == 1:
                for k in range(color.shape[2]):
                    change = color[row + dy, x + dx, k] - color[row, x, k]
                    out[row, x, k] = out[row, x, k] + Real(c.share) * change

    @wp.func
    def add(
        pos_g: wp.array3d(dtype=Vec4), thread: int, image: int, vertex: int, g: wp.vec3d
    ):  # fmt: skip
        g4 = Vec4(Real(g[0]), Real(g[1]), Real(0.0), Real(g[2]))
        wp.atomic_add(pos_g, thread, wp.min(image, pos_g.shape[1] - 1), vertex, g4)

    @kernel
    def antialias_grad(
        first: int, stride: int, height: int, pos: Positions, tri: Triangles, links: Links,
        rast: Picture, color: Colors, g: Colors, color_g: Colors,
        pos_g: wp.array3d(dtype=Vec4),
    ):  # fmt: skip
        item, x = wp.tid()
        row = first + stride * item
        for side in range(4):
            dx = wp.where(side < 2, 2 * side - 1, 0)
            dy = wp.where(side < 2, 0, 2 * side - 5)
            c = crossing(pos, tri, links, rast, height, row, x, dx, dy)
            if c.taker == 1:
                share_g = Double(0.0)
                for k in range(color.shape[2]):
                    mine = g[row, x, k]
                    color_g[row, x, k] = color_g[row, x, k] - Real(c.share) * mine
                    share_g += Double(mine * (color[row + dy, x + dx, k] - color[row, x, k]))
                add(pos_g, first, row // height, c.a, c.sign * share_g * c.a_g)
                add(pos_g, first, row // height, c.b, c.sign * share_g * c.b_g)
            elif c.taker == 2:
                for k in range(color.shape[2]):
                    theirs = g[row + dy, x + dx, k]
                    color_g[row, x, k] = color_g[row, x, k] + Real(c.share) * theirs

    return SimpleNamespace(antialias=antialias, antialias_grad=antialias_grad)
