"""Vertex attributes at the pixels: u a + v b + (1 - u - v) c, nvdiffrast's ``interpolate``."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from threestudio_asd.errors import UserError
from threestudio_asd.kernels._warp import as_array, check_tensor
from threestudio_asd.kernels.rasterize import Triangles, launch_rows, per_thread, rows


def interpolate(
    attr: Float[Tensor, "images Nv C"],
    rast: Float[Tensor, "B H W 4"],
    tri: Int[Tensor, "Nt 3"] | Triangles,
    rast_db: Float[Tensor, "B H W 4"] | None = None,
    diff_attrs: str | Sequence[int] | None = None,
) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W D"]]:
    """Attributes where the pixels see a triangle, zero elsewhere.

    Args:
        attr: per vertex; one image's, or one set for all (images = B or 1).
        rast: what :func:`.rasterize.rasterize` returned.
        tri: int32 corners; their indices may differ from those that were rasterised.
        rast_db: derivatives per pixel, for ``diff_attrs``.
        diff_attrs: "all" or channels whose derivatives are wanted.

    Returns:
        The attributes, and (da/dX, da/dY) per pixel of each channel in ``diff_attrs``, side by
        side (D = 2 times their number, else 0). Gradients reach ``attr``, ``rast`` (u, v) and
        ``rast_db``.

    Raises:
        UserError: on wrong shapes, types or indices.
    """
    corners, attr = _check(attr, rast, tri).corners, attr.contiguous()
    values = _Interpolate.apply(attr, rast.contiguous(), corners)
    if diff_attrs is None:
        return values, values.new_zeros(*values.shape[:3], 0)
    if rast_db is None:
        raise UserError("interpolate needs rast_db for diff_attrs. Fix: pass rasterize's second.")
    channels = list(range(attr.shape[2])) if diff_attrs == "all" else list(diff_attrs)
    return values, _derivatives(attr[..., channels], rast, corners, rast_db)


def interpolate_reference(
    attr: Float[Tensor, "images Nv C"], rast: Float[Tensor, "B H W 4"], tri: Int[Tensor, "Nt 3"]
) -> Float[Tensor, "B H W C"]:
    """Plain torch; the attributes of :func:`interpolate`."""
    u, v = rast[..., :1], rast[..., 1:2]
    a, b, c = _corner_values(attr, rast, tri)
    return (u * a + v * b + (1 - u - v) * c).where(rast[..., 3:] > 0, 0)


def _corner_values(attr: Tensor, rast: Tensor, tri: Tensor) -> tuple[Tensor, ...]:
    """Three (B, H, W, C): the attributes at the corners of the triangle that each pixel shows."""
    image = torch.arange(len(rast), device=rast.device)[:, None, None, None]
    at = tri.long()[(rast[..., 3].long() - 1).clamp_min(0)]
    return attr[image.clamp_max(len(attr) - 1), at].unbind(-2)


def _derivatives(attr: Tensor, rast: Tensor, tri: Tensor, rast_db: Tensor) -> Tensor:
    a, b, c = _corner_values(attr, rast, tri)
    u, v = rast_db[..., None, :2], rast_db[..., None, 2:]  # d/dX, d/dY
    slopes = u * (a - c)[..., None] + v * (b - c)[..., None]
    return slopes.flatten(-2)


class _Interpolate(Function):
    @staticmethod
    def forward(ctx: Any, attr: Tensor, rast: Tensor, tri: Tensor) -> Tensor:
        from threestudio_asd.kernels._shade_kernels import build_interpolate

        ctx.save_for_backward(attr, rast, tri)
        out = attr.new_zeros(*rast.shape[:3], attr.shape[2])
        args = [as_array(attr), rows(rast), as_array(tri), as_array(out.flatten(0, 1))]
        launch_rows(build_interpolate(attr.dtype).interpolate, rast, args)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        from threestudio_asd.kernels._shade_kernels import build_interpolate

        attr, rast, tri = ctx.saved_tensors
        sums, rast_g = per_thread(attr, rast), torch.zeros_like(rast)
        inputs = [as_array(attr), rows(rast), as_array(tri), as_array(g.contiguous().flatten(0, 1))]
        kernel = build_interpolate(attr.dtype).interpolate_grad
        launch_rows(kernel, rast, [*inputs, as_array(sums), rows(rast_g)])
        return sums.sum(0), rast_g, None


def _check(attr: Any, rast: Any, tri: Any) -> Triangles:
    check_tensor("rast", rast, "(B, H, W, 4)", ndim=4, last=4)
    check_tensor("attr", attr, "(B or 1, Nv, C)", ndim=3, like=rast)
    tri = Triangles.checked(tri, attr.shape[1], rast.device)
    if len(attr) not in (1, len(rast)):
        raise UserError(f"attr must have 1 or {len(rast)} images, as rast has, got {len(attr)}.")
    return tri
