"""Stand-in for ``nvdiffrast.torch``: what threestudio's rasteriser and materials call."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.kernels import antialias as _antialias
from threestudio_asd.kernels import rasterize as _rasterize
from threestudio_asd.kernels import texture as _texture
from threestudio_asd.kernels.interpolate import interpolate
from threestudio_asd.portable.placeholder import refusing

__all__ = [
    "RasterizeCudaContext",
    "RasterizeGLContext",
    "antialias",
    "antialias_construct_topology_hash",
    "interpolate",
    "rasterize",
    "texture",
]

ADVICE = (
    "threestudio-asd's stand-in for nvdiffrast has rasterize, interpolate, antialias and texture"
    " without mipmaps only: install nvdiffrast from its repository and run on CUDA."
)

__getattr__ = refusing("nvdiffrast.torch", ADVICE)


class RasterizeCudaContext:
    """Nothing to hold: the kernels run where the tensors are.

    Args:
        device: accepted, as nvdiffrast does.
    """

    output_db = True

    def __init__(self, device: torch.device | str | None = None) -> None:
        self.device = device


class RasterizeGLContext(RasterizeCudaContext):
    """The same without OpenGL.

    Args:
        output_db: whether :func:`rasterize` returns derivatives; else its second result is empty.
        mode: accepted; there is no OpenGL context to switch.
    """

    def __init__(
        self,
        output_db: bool = True,
        mode: str = "automatic",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(device)
        self.output_db = output_db

    def set_context(self) -> None:
        """Nothing to do."""

    def release_context(self) -> None:
        """Nothing to do."""


def rasterize(
    glctx: RasterizeCudaContext,
    pos: Tensor,
    tri: Tensor,
    resolution: Sequence[int],
    ranges: Tensor | None = None,
    grad_db: bool = True,
) -> tuple[Tensor, Tensor]:
    """(u, v, z/w, triangle + 1) and (du/dX, du/dY, dv/dX, dv/dY), each (B, H, W, 4).

    :func:`threestudio_asd.kernels.rasterize.rasterize`; without ``grad_db`` no gradient flows
    through the derivatives.
    """
    rast, rast_db = _rasterize.rasterize(pos, tri, tuple(resolution), ranges)
    if not glctx.output_db:
        return rast, rast_db[..., :0]
    return rast, rast_db if grad_db else rast_db.detach()


def antialias(
    color: Tensor,
    rast: Tensor,
    pos: Tensor,
    tri: Tensor,
    topology_hash: Tensor | None = None,
    pos_gradient_boost: float = 1.0,
) -> Tensor:
    """:func:`threestudio_asd.kernels.antialias.antialias`, its gradient to ``pos`` scaled."""
    if pos_gradient_boost != 1.0:
        pos = pos_gradient_boost * pos - ((pos_gradient_boost - 1.0) * pos).detach()
    return _antialias.antialias(color, rast, pos, tri, topology_hash)


def antialias_construct_topology_hash(tri: Tensor) -> Tensor:
    """The topology of ``tri`` for :func:`antialias`, to be kept while the triangles stay."""
    return _antialias.edge_links(tri)


def texture(
    tex: Tensor,
    uv: Tensor,
    uv_da: Tensor | None = None,
    mip_level_bias: Tensor | None = None,
    mip: Any = None,
    filter_mode: str = "auto",
    boundary_mode: str = "wrap",
    max_mip_level: int | None = None,
) -> Tensor:
    """:func:`threestudio_asd.kernels.texture.texture`.

    Raises:
        UserError: if mipmaps or cube maps are asked for.
    """
    if uv_da is not None or mip_level_bias is not None or mip is not None:
        raise UserError(f"nvdiffrast.torch.texture is called with mipmaps, but {ADVICE}")
    if filter_mode == "auto":
        filter_mode = "linear"
    return _texture.texture(tex, uv, filter_mode, boundary_mode)
