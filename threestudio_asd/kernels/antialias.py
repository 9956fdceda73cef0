"""Edge antialiasing with a gradient of silhouettes (Laine et al. 2020, arXiv:2011.03277, 3.5).

Two neighbouring pixels that see different triangles are a pair; the nearer of the two triangles
(by z/w at its own pixel) hides something. If its surface has a silhouette edge across the line
between the pixels' centres, at t in [0, 1] from its own pixel, the nearer colour reaches to t: for
t > 1/2 it flows into the farther pixel with weight t - 1/2, else the farther into the nearer with
1/2 - t. An edge is a silhouette if no triangle goes on beyond it. Edges steeper than 45 degrees
are looked at between pixels side by side, others between one above the other. The paper looks at
the edges of the nearer triangle itself; here the line is followed from triangle to triangle, so
that silhouettes are not lost where a fine mesh turns away in triangles smaller than a pixel.
"""

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from threestudio_asd.errors import UserError
from threestudio_asd.kernels._warp import as_array, check_tensor
from threestudio_asd.kernels.rasterize import (
    Triangles,
    launch_rows,
    per_thread,
    rows,
    vectors,
)


def antialias(
    color: Float[Tensor, "B H W C"],
    rast: Float[Tensor, "B H W 4"],
    pos: Float[Tensor, "images Nv 4"] | Float[Tensor, "Nv 4"],
    tri: Int[Tensor, "Nt 3"] | Triangles,
    links: Int[Tensor, "edges"] | None = None,
) -> Float[Tensor, "B H W C"]:
    """``color`` with its silhouettes smoothed; gradients reach ``color`` and ``pos``.

    Args:
        color: what was shaded from ``rast``.
        rast: what :func:`.rasterize.rasterize` returned for ``pos`` and ``tri``.
        pos: the clip-space vertices; one image's, or one set for all.
        tri: int32 corners. Edges are shared where the vertices are the same, by index.
        links: :func:`edge_links` of ``tri``, to save the time for it when ``tri`` stays.

    Raises:
        UserError: on wrong shapes, types or indices.
    """
    vertices = pos[None] if isinstance(pos, Tensor) and pos.ndim == 2 else pos
    tri = _check(color, rast, vertices, tri, links).corners
    links = edge_links(tri) if links is None else links.contiguous()
    rast = rast.detach().contiguous()
    tensors = (color.contiguous(), vertices.contiguous(), rast, tri)
    return _Antialias.apply(*tensors, links)


def edge_links(tri: Int[Tensor, "Nt 3"]) -> Int[Tensor, "edges"]:
    """(3 Nt,) int32: at 3 t + k, the next triangle's edge along the same two vertices.

    Edge 3 t + k lies opposite to corner k of triangle t. The links of an edge's triangles form a
    ring; an edge of one triangle alone links to itself.
    """
    ends = torch.stack([tri.roll(-1, 1), tri.roll(-2, 1)], dim=-1).long().view(-1, 2)
    low, high = ends.amin(-1), ends.amax(-1)
    order = torch.argsort(low * (high.max() + 1 if len(high) else 1) + high)
    new = torch.ones(len(order) + 1, dtype=torch.bool, device=tri.device)
    new[1:-1] = (low[order].diff() != 0) | (high[order].diff() != 0)
    first = torch.arange(len(new), device=tri.device).where(new, 0).cummax(0).values
    following = torch.arange(1, len(new), device=tri.device)
    links = torch.empty(len(order), dtype=torch.int32, device=tri.device)
    links[order] = order[torch.where(new[1:], first[:-1], following)].int()
    return links


def antialias_reference(
    color: Float[Tensor, "B H W C"],
    rast: Float[Tensor, "B H W 4"],
    pos: Float[Tensor, "B Nv 4"],
    tri: Int[Tensor, "Nt 3"],
) -> Float[Tensor, "B H W C"]:
    """Plain torch, one pair of pixels after the other. Same result as :func:`antialias`."""
    opposite = defaultdict(list)
    for t, corners in enumerate(tri.tolist()):
        for k in range(3):
            opposite[frozenset((*corners[:k], *corners[k + 1 :]))].append((t, corners[k]))
    shown, z = rast[..., 3].long() - 1, rast[..., 2].detach()
    out = color.clone()
    for dy, dx in ((0, 1), (1, 0)):
        height, width = shown.shape[1] - dy, shown.shape[2] - dx
        pairs = (shown[:, :height, :width] != shown[:, dy:, dx:]).nonzero()
        for image, y, x in pairs.tolist():
            here, there = (image, y, x), (image, y + dy, x + dx)
            depths = [(float(z[p]) if shown[p] >= 0 else 9.0, int(shown[p])) for p in (here, there)]
            near, far = (here, there) if depths[0] < depths[1] else (there, here)
            t = _reach(pos[image], tri, opposite, int(shown[near]), near[1:], far[1:], shown.shape)
            if t is None:
                continue
            taker, giver = (near, far) if t < 0.5 else (far, near)
            flow = (t - 0.5).abs() * (color[giver] - color[taker])
            out = out.index_put([torch.tensor(i) for i in taker], flow, accumulate=True)
    return out


def _reach(
    pos: Tensor, tri: Tensor, opposite: dict, t: int, near: tuple, far: tuple, shape: torch.Size
) -> Tensor | None:
    """How far the surface reaches from its pixel (y, x) to the other, if it ends between them."""
    size = torch.tensor([shape[2], shape[1]], dtype=pos.dtype, device=pos.device)
    start, end = (
        torch.cat([(2 * pos.new_tensor([x, y]) + 1 - size) / size, pos.new_ones(1)])
        for y, x in (near, far)
    )
    between, entry = torch.linalg.cross(start, end), None
    while True:
        exits = []
        for k in range(3):
            edge = [int(tri[t, (k + i) % 3]) for i in (1, 2)]
            a, b = (pos[v][[0, 1, 3]] for v in edge)
            sides = [torch.dot(between, v) for v in (a, b)]
            # The point of the edge is |sides_b| a + |sides_a| b; is it before the eye?
            w = sides[1].abs() * a[2] + sides[0].abs() * b[2]
            if set(edge) != entry and (sides[0] < 0) != (sides[1] < 0) and w > 0:
                line = torch.linalg.cross(a, b)
                reach = torch.dot(start, line) / torch.dot(start - end, line)
                if reach >= -1e-3:  # 0 at the centre inside the first triangle, but for rounding
                    exits.append((reach, line, set(edge), pos[tri[t, k]][[0, 1, 3]]))
        if not exits:
            return None
        reach, line, entry, corner = max(exits, key=lambda e: float(e[0].detach()))
        if reach > 1:
            return None
        side = torch.dot(line, corner)
        onward = [
            other
            for other, v in opposite[frozenset(entry)]
            if other != t and side * torch.dot(line, pos[v][[0, 1, 3]]) < 0
        ]
        if not onward:
            steep = (line[:2] / size).abs()
            horizontal = near[0] == far[0]
            return reach if bool(steep[0] >= steep[1]) == horizontal else None
        t = onward[0]


class _Antialias(Function):
    @staticmethod
    def forward(
        ctx: Any, color: Tensor, pos: Tensor, rast: Tensor, tri: Tensor, links: Tensor
    ) -> Tensor:
        from threestudio_asd.kernels._antialias_kernels import build

        ctx.save_for_backward(color, pos, rast, tri, links)
        out = color.clone()
        args = [vectors(pos), as_array(tri), as_array(links), rows(rast)]
        args += [as_array(picture.flatten(0, 1)) for picture in (color, out)]
        launch_rows(build(color.dtype).antialias, rast, args)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        from threestudio_asd.kernels._antialias_kernels import build

        color, pos, rast, tri, links = ctx.saved_tensors
        g = g.contiguous()
        color_g, sums = g.clone(), per_thread(pos, rast)
        args = [vectors(pos), as_array(tri), as_array(links), rows(rast)]
        args += [as_array(picture.flatten(0, 1)) for picture in (color, g, color_g)]
        launch_rows(build(color.dtype).antialias_grad, rast, [*args, vectors(sums)])
        return color_g, sums.sum(0), None, None, None


def _check(color: Any, rast: Any, pos: Any, tri: Any, links: Any) -> Triangles:
    check_tensor("rast", rast, "(B, H, W, 4)", ndim=4, last=4)
    check_tensor("color", color, "(B, H, W, C)", ndim=4, like=rast)
    check_tensor("pos", pos, "(B or 1, Nv, 4)", ndim=3, last=4, like=rast)
    tri = Triangles.checked(tri, pos.shape[1], rast.device)
    if color.shape[:3] != rast.shape[:3] or len(pos) not in (1, len(rast)):
        raise UserError(
            f"color and pos must have the images of rast, {tuple(rast.shape)}, got "
            f"{tuple(color.shape)} and {tuple(pos.shape)}."
        )
    if links is not None and (links.shape != (3 * len(tri),) or links.dtype != torch.int32):
        raise UserError(f"links must be edge_links(tri), int32 ({3 * len(tri)},).")
    return tri
