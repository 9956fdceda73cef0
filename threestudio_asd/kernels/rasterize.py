"""Triangle rasterisation with barycentrics (nvdiffrast's conventions; Laine et al. 2020).

A pixel's centre p = (x, y, 1) in [-1, 1]^2 sees the point of a triangle with corners a, b, c
(columns (x, y, w) of clip space) whose weights are, without a division by w,

    E = (p·(b × c), p·(c × a), p·(a × b)),   (u, v, 1-u-v) = E / ΣE,   z/w = Σ E z / Σ E w

(Olano and Greer, "Triangle scan conversion using 2D homogeneous coordinates", 1997). The weights
are perspective-correct, and a triangle that crosses w = 0 needs no clipping: it is seen where all
E have the sign of det(a, b, c). E is computed in float64 so that swapping the ends of an edge
changes nothing but its sign, and a centre on the edge itself (E = 0) belongs to the triangle on
one fixed side: a shared edge is drawn exactly once.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from threestudio_asd.errors import UserError
from threestudio_asd.kernels._warp import as_array, check_tensor, launch_split, threads_for, warp

#: Triangle indices are stored as float32, which counts no further.
MAX_TRIANGLES = 2**24 - 1
#: Rows of an image on CUDA are dealt to so many work items per triangle.
CUDA_BANDS = 64


@dataclass(frozen=True)
class Triangles:
    """int32 corners that are known to lie in 0..n_vertices-1.

    Every function here that takes triangles takes these too, and does not look at them again: on
    CUDA the CPU waits for that.
    """

    corners: Int[Tensor, "Nt 3"]
    n_vertices: int

    @classmethod
    def checked(cls, tri: Any, n_vertices: int, device: torch.device) -> "Triangles":
        """``tri`` if they are triangles between so many vertices.

        Raises:
            UserError: on a wrong shape, type, device or index; for what was checked before, if it
                was for more vertices than these.
        """
        if isinstance(tri, Triangles):
            if tri.n_vertices > n_vertices or tri.corners.device != device:
                raise UserError(
                    f"tri are triangles of {tri.n_vertices} vertices on {tri.corners.device}, but"
                    f" there are {n_vertices} on {device}."
                )
            return tri
        _check_corners(tri, n_vertices, device)
        return cls(tri.contiguous(), n_vertices)

    def __len__(self) -> int:
        return len(self.corners)


Rast = tuple[Float[Tensor, "B H W 4"], Float[Tensor, "B H W 4"]]


def rasterize(
    pos: Float[Tensor, "B Nv 4"] | Float[Tensor, "Nv 4"],
    tri: Int[Tensor, "Nt 3"] | Triangles,
    resolution: tuple[int, int],
    ranges: Int[Tensor, "B 2"] | None = None,
) -> Rast:
    """Which triangle every pixel sees first, and where on it.

    Triangles are seen from both sides and cut at the near and far plane (-1 <= z/w <= 1). Depths
    are compared in steps of 2^-30 of z/w; equal ones go to the lower index.

    Args:
        pos: clip-space vertices, float32 or float64; with ``ranges`` one set for all images.
        tri: int32 corners.
        resolution: (H, W) in pixels.
        ranges: first triangle and count of each image, instead of all triangles in all images.

    Returns:
        ``rast``: (u, v, z/w, index + 1), zeros where nothing is seen. u and v are the weights of
        the first and second corner. Row 0 is the bottom, y = -1.
        ``rast_db``: (du/dX, du/dY, dv/dX, dv/dY) per pixel.

        Gradients reach ``pos`` from u, v and ``rast_db``, for what is seen in each pixel now: that
        something else may be seen is the business of :mod:`.antialias`.

    Raises:
        UserError: on wrong shapes, types or indices.
    """
    images, tri = _check(pos, tri, resolution, ranges)
    if ranges is None:
        ranges = torch.zeros(images, 2, dtype=torch.int32, device=pos.device)
        ranges[:, 1] = len(tri)
    vertices = pos if pos.ndim == 3 else pos[None]
    ranges = ranges.to(pos.device, torch.int32).contiguous()
    return _Rasterize.apply(vertices.contiguous(), tri.corners, ranges, resolution)


def rasterize_reference(
    pos: Float[Tensor, "B Nv 4"], tri: Int[Tensor, "Nt 3"], resolution: tuple[int, int]
) -> Rast:
    """Plain torch: all pixels against all triangles. Same result as :func:`rasterize`."""
    with torch.no_grad():
        shown = torch.stack([_shown_reference(p.double(), tri, resolution) for p in pos])
    return shade_reference(pos, tri, shown)


def _shown_reference(pos: Tensor, tri: Tensor, resolution: tuple[int, int]) -> Tensor:
    """(H, W): the triangle that each pixel sees, or -1."""
    height, width = resolution
    empty = torch.iinfo(torch.int64).max
    best = torch.full(resolution, empty, device=pos.device)
    pixels = _centres(height, width, pos)
    for index, corners in enumerate(pos[tri.long()]):
        spatial = corners[:, [0, 1, 3]]
        lines = torch.linalg.cross(spatial.roll(-1, 0), spatial.roll(-2, 0))
        volume = (spatial[0] * lines[0]).sum()
        lines = lines * volume.sign()
        value = (pixels * lines[:, None, None]).sum(-1)
        owner = (lines[:, 0] > 0) | ((lines[:, 0] == 0) & (lines[:, 1] > 0))
        inside = ((value > 0) | ((value == 0) & owner[:, None, None])).all(0) & (volume != 0)
        z = torch.einsum("ehw,e->hw", value, corners[:, 2])
        z = z / torch.einsum("ehw,e->hw", value, corners[:, 3])
        inside &= (z >= -1) & (z <= 1)
        depth = ((z + 1) * 2.0**30).nan_to_num(0).long().clamp(0, 2**31 - 1)
        best = torch.where(inside, best.minimum(depth * 2**32 + index), best)
    return torch.where(best == empty, -1, best % 2**32)


def _centres(height: int, width: int, like: Tensor) -> Tensor:
    """(H, W, 3): the pixels' centres (x, y, 1)."""
    y, x = (
        (2 * torch.arange(n, dtype=like.dtype, device=like.device) + 1 - n) / n
        for n in (height, width)
    )
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def shade_reference(
    pos: Float[Tensor, "B Nv 4"], tri: Int[Tensor, "Nt 3"], shown: Int[Tensor, "B H W"]
) -> Rast:
    """Plain torch: ``rast`` and ``rast_db`` when it is known which triangle each pixel shows."""
    images, height, width = shown.shape
    image = torch.arange(images, device=pos.device)[:, None, None, None]
    at = tri.long()[shown.clamp_min(0)]
    corners = pos[image.clamp_max(len(pos) - 1), at]  # (B, H, W, 3, 4)
    centre = _centres(height, width, pos)[..., None, :]
    w = corners[..., 3:]
    spatial = torch.cat([corners[..., :2] - centre[..., :2] * w, w], dim=-1)
    lines = torch.linalg.cross(spatial.roll(-1, -2), spatial.roll(-2, -2))
    area = lines[..., 2]
    total = area.sum(-1, keepdim=True)
    weights = area / total
    z = (area * corners[..., 2]).sum(-1) / (area * corners[..., 3]).sum(-1)
    per_pixel = 2 / torch.tensor([width, height], dtype=pos.dtype, device=pos.device)
    slopes = lines[..., :2] - weights[..., None] * lines[..., :2].sum(-2, keepdim=True)
    slopes = slopes * per_pixel / total[..., None]
    rast = torch.cat([weights[..., :2], z[..., None], (shown + 1).to(z)[..., None]], dim=-1)
    seen = (shown >= 0)[..., None]
    return rast.where(seen, 0), slopes[..., :2, :].flatten(-2).where(seen, 0)


class _Rasterize(Function):
    @staticmethod
    def forward(
        ctx: Any, pos: Tensor, tri: Tensor, ranges: Tensor, resolution: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        from threestudio_asd.kernels._shade_kernels import build_shade

        keys = _cover(pos, tri, ranges, resolution)
        rast = pos.new_zeros(*keys.shape, 4)
        rast_db = torch.zeros_like(rast)
        args = [as_array(keys.flatten(0, 1)), *(rows(picture) for picture in (rast, rast_db))]
        launch_rows(build_shade(pos.dtype).shade, rast, [vectors(pos), as_array(tri), *args])
        ctx.save_for_backward(pos, tri, rast)
        ctx.set_materialize_grads(False)
        return rast, rast_db

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, rast_g: Tensor | None, rast_db_g: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        from threestudio_asd.kernels._shade_kernels import build_shade

        pos, tri, rast = ctx.saved_tensors
        pos_g = torch.zeros_like(pos)
        if rast_g is not None:
            sums = per_thread(pos, rast)
            args = [vectors(pos), as_array(tri), rows(rast), rows(rast_g.contiguous())]
            launch_rows(build_shade(pos.dtype).shade_grad, rast, [*args, vectors(sums)])
            pos_g += sums.sum(0)
        if rast_db_g is not None:  # seldom asked for: not worth a kernel
            with torch.enable_grad():
                leaf = pos.detach().requires_grad_()
                _, rast_db = shade_reference(leaf, tri, rast[..., 3].long() - 1)
            pos_g += torch.autograd.grad(rast_db, leaf, rast_db_g)[0]
        return pos_g, None, None, None


def _cover(pos: Tensor, tri: Tensor, ranges: Tensor, resolution: tuple[int, int]) -> Tensor:
    """(B, H, W) int64: depth in the upper half, triangle in the lower; ``EMPTY`` for nothing."""
    from threestudio_asd.kernels._raster_kernels import EMPTY, build_cover

    images, n_triangles, device = len(ranges), len(tri), pos.device
    keys = torch.full((images, *resolution), EMPTY, dtype=torch.int64, device=device)
    if keys.numel() == 0 or n_triangles == 0:
        return keys
    threads = threads_for(images * resolution[0], keys.numel(), device)
    bands = CUDA_BANDS if device.type == "cuda" else threads
    chunk, inner = (1, n_triangles) if device.type == "cuda" else (n_triangles, 1)
    parts = as_array(ranges, warp().vec2i)
    args = [chunk, bands, vectors(pos), as_array(tri), parts, as_array(keys)]
    launch_split(build_cover(pos.dtype), images * bands, args, device, threads, inner)
    return keys


def launch_rows(kernel: Any, picture: Tensor, args: list[Any]) -> None:
    """Launch ``kernel(first, stride, H, *args)`` over rows and columns of (B, H, W, C)."""
    images, height, width = picture.shape[:3]
    if picture.numel():
        threads = picture_threads(picture)
        launch_split(kernel, images * height, [height, *args], picture.device, threads, width)


def picture_threads(picture: Tensor) -> int:
    """In how many threads :func:`launch_rows` runs."""
    images, height, width = picture.shape[:3]
    return threads_for(images * height, images * height * width, picture.device)


def per_thread(sums: Tensor, picture: Tensor) -> Tensor:
    """Zeros to add gradients of ``sums`` to: one copy per thread, so that no two write to one."""
    return sums.new_zeros(picture_threads(picture), *sums.shape)


def vectors(tensor: Tensor) -> Any:
    """(..., 4) as an array of Warp's 4-vectors."""
    from threestudio_asd.kernels._raster_kernels import build_loads

    return as_array(tensor, build_loads(tensor.dtype).Vec4)


def rows(picture: Tensor) -> Any:
    """(B, H, W, 4) as rows of 4-vectors."""
    return vectors(picture.flatten(0, 1))


def _check_corners(tri: Any, n_vertices: int, device: torch.device) -> None:
    if not isinstance(tri, Tensor) or tri.ndim != 2 or tri.shape[1] != 3:
        raise UserError(f"tri must be a tensor (Nt, 3), got {getattr(tri, 'shape', type(tri))}.")
    if tri.dtype != torch.int32 or tri.device != device:
        raise UserError(
            f"tri must be int32 on {device}, got {tri.dtype} on {tri.device}. Fix: tri.int()"
        )
    if len(tri) > MAX_TRIANGLES:
        raise UserError(f"At most {MAX_TRIANGLES} triangles can be drawn at once, got {len(tri)}.")
    if len(tri):
        low, high = torch.stack(torch.aminmax(tri)).tolist()  # one wait, not two
        if low < 0 or high >= n_vertices:
            raise UserError(f"tri must lie in 0..{n_vertices - 1}, got {low}..{high}.")


def _check(pos: Any, tri: Any, resolution: Any, ranges: Any) -> tuple[int, Triangles]:
    """The number of images and the triangles, after checking that all arguments fit."""
    if ranges is None:
        check_tensor("pos", pos, "(B, Nv, 4), or (Nv, 4) with ranges", ndim=3, last=4)
    else:
        check_tensor("pos", pos, "(Nv, 4) with ranges", ndim=2, last=4)
    tri = Triangles.checked(tri, pos.shape[-2], pos.device)
    if len(resolution) != 2 or min(resolution) < 1:
        raise UserError(f"resolution must be (height, width) in pixels, got {resolution}.")
    if ranges is None:
        return len(pos), tri
    ends = ranges.sum(-1) if ranges.ndim == 2 and ranges.shape[1] == 2 else None
    if ends is None or bool((ranges < 0).any() | (ends > len(tri)).any()):
        raise UserError(
            f"ranges must be (B, 2), first triangle and count within {len(tri)} triangles, got "
            f"{ranges.tolist()}."
        )
    return len(ranges), tri
