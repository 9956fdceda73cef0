"""Texture look-up without mipmaps, nvdiffrast's ``texture``; plain torch, which is fast enough."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.kernels._warp import check_tensor

FILTERS = ("linear", "nearest")
BOUNDARIES = ("wrap", "clamp", "zero")


def texture(
    tex: Float[Tensor, "images Ht Wt C"],
    uv: Float[Tensor, "B H W 2"],
    filter_mode: str = "linear",
    boundary_mode: str = "wrap",
) -> Float[Tensor, "B H W C"]:
    """Colours at texture coordinates; gradients reach ``tex`` and, with "linear", ``uv``.

    Args:
        tex: one image's texture, or one for all (images = B or 1).
        uv: (0, 0) to (1, 1) from the outer corner of the first texel to that of the last one;
            u runs along a row, v from the first row to the last.
        filter_mode: "linear" between the centres of four texels, or "nearest".
        boundary_mode: outside, the texture is repeated ("wrap"), continued with its border
            ("clamp") or black ("zero").

    Raises:
        UserError: on wrong shapes, types or modes.
    """
    _check(tex, uv, filter_mode, boundary_mode)
    size = uv.new_tensor([tex.shape[2], tex.shape[1]])
    if filter_mode == "nearest":
        return _texels(tex, (uv * size).floor(), boundary_mode)
    at = uv * size - 0.5
    low = at.floor().detach()
    x, y = (at - low).split(1, dim=-1)
    out = torch.zeros((), dtype=tex.dtype, device=tex.device)
    for dx, weight_x in ((0, 1 - x), (1, x)):
        for dy, weight_y in ((0, 1 - y), (1, y)):
            texels = _texels(tex, low + low.new_tensor([dx, dy]), boundary_mode)
            out = out + weight_x * weight_y * texels
    return out


def _texels(tex: Tensor, at: Tensor, boundary_mode: str) -> Tensor:
    """(B, H, W, C): the texels of column and row ``at``."""
    size = at.new_tensor([tex.shape[2], tex.shape[1]])
    inside = ((at >= 0) & (at < size)).all(-1, keepdim=True)
    at = at.remainder(size) if boundary_mode == "wrap" else at
    x, y = at.clamp_min(0).minimum(size - 1).long().unbind(-1)
    image = torch.arange(len(at), device=tex.device)[:, None, None].clamp_max(len(tex) - 1)
    texels = tex[image, y, x]
    return texels.where(inside, 0) if boundary_mode == "zero" else texels


def _check(tex: Any, uv: Any, filter_mode: str, boundary_mode: str) -> None:
    check_tensor("tex", tex, "(B or 1, H, W, C)", ndim=4)
    check_tensor("uv", uv, "(B, H, W, 2)", ndim=4, last=2, like=tex)
    if len(tex) not in (1, len(uv)) or tex[0, ..., 0].numel() == 0:
        raise UserError(
            f"tex must have at least one texel, and 1 or {len(uv)} images, as uv has, got "
            f"{tuple(tex.shape)}."
        )
    for name, mode, modes in (
        ("filter_mode", filter_mode, FILTERS),
        ("boundary_mode", boundary_mode, BOUNDARIES),
    ):
        if mode not in modes:
            raise UserError(f"{name} must be one of {', '.join(modes)}, got {mode!r}.")
