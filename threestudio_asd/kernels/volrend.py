"""Volume rendering along rays (Mildenhall et al., NeRF, 2020, equation 3).

For the samples i of a ray with densities σ_i and lengths δ_i = t_end - t_start:

    α_i = 1 - exp(-σ_i δ_i),   T_i = exp(-Σ_{j<i} σ_j δ_j),   w_i = T_i α_i

nerfacc's function names. Samples are flat, sorted by ray, with their ray given by ``ray_indices``
(and ``n_rays``) or by ``packed_info`` (first sample and count of each ray); without either, the
last dimension runs along a ray. Only the sum over earlier samples is a kernel, the rest is torch,
so every function is differentiable any number of times, in every float argument.

Indices are looked at before anything is written by them, and on CUDA the CPU waits for that. In
place of ``ray_indices`` every function takes :class:`Rays`, which have been looked at.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import Function

from threestudio_asd.errors import UserError
from threestudio_asd.kernels._warp import as_array, check_tensor, launch_split, threads_for


def exclusive_sum_reference(
    values: Float[Tensor, "N"], packed_info: Int[Tensor, "R 2"], reverse: bool = False
) -> Float[Tensor, "N"]:
    """Plain torch: per ray, the sum of the samples before (``reverse``: after) each sample."""
    out = torch.zeros_like(values)
    for begin, count in packed_info.tolist():
        part = values[begin : begin + count]
        part = part.flip(0) if reverse else part
        total = part.cumsum(0) - part
        out = out.index_copy(
            0,
            torch.arange(begin, begin + count, device=values.device),
            total.flip(0) if reverse else total,
        )
    return out


class _ExclusiveSum(Function):
    """Its derivative is the same sum in the other direction."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, packed_info: Tensor, reverse: bool) -> Tensor:
        from threestudio_asd.kernels._ray_kernels import build_exclusive_sum

        ctx.save_for_backward(packed_info)
        ctx.reverse = reverse
        values, out = values.contiguous(), torch.zeros_like(values)
        n_rays, device = packed_info.shape[0], values.device
        if values.numel() and n_rays:
            launch_split(
                build_exclusive_sum(values.dtype),
                n_rays,
                [as_array(packed_info), as_array(values), int(reverse), as_array(out)],
                device,
                threads_for(n_rays, values.numel(), device),
            )
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (packed_info,) = ctx.saved_tensors
        return _ExclusiveSum.apply(g, packed_info, not ctx.reverse), None, None


def _widen(value: Tensor | None, like: Tensor) -> Tensor | None:
    """A network's output under autocast (half, bfloat16), in the precision of the samples."""
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.to(like.dtype) if half else value


def _as_real(distance: Tensor, sigmas: Tensor) -> Tensor:
    """Whole distances in the densities' precision, as arithmetic between the two promotes them.

    threestudio's ``validate_empty_rays`` makes an int64 sample [0, 0] where nothing was hit.
    """
    whole = isinstance(distance, Tensor) and distance.dtype in (torch.int32, torch.int64)
    if not whole or not isinstance(sigmas, Tensor):
        return distance
    return distance.to(torch.promote_types(sigmas.dtype, torch.float32))


def _check_rays(ray_indices: Tensor, n_rays: int | None, n_samples: int, sort: bool) -> int:
    """The number of rays, after checking that the indices are safe to write with."""
    if ray_indices.dtype != torch.int64 or ray_indices.shape != (n_samples,):
        raise UserError(
            f"ray_indices must be int64 of shape ({n_samples},), one per sample, got "
            f"{ray_indices.dtype} {tuple(ray_indices.shape)}."
        )
    if n_samples == 0:
        return n_rays or 0
    asked = [*torch.aminmax(ray_indices)]
    if sort:
        asked.append((ray_indices[1:] >= ray_indices[:-1]).all().to(torch.int64))
    low, high, *in_order = torch.stack(asked).tolist()  # one wait for all
    n_rays = high + 1 if n_rays is None else n_rays
    if low < 0 or high >= n_rays:
        raise UserError(f"ray_indices must lie in 0..{n_rays - 1}, got {low}..{high}.")
    if not all(in_order):
        raise UserError("ray_indices must be sorted: the samples of a ray are neighbours.")
    return n_rays


@dataclass(frozen=True)
class Rays:
    """The rays of samples that are known to be sorted by ray: ``index`` in 0..count-1.

    Made as they are by what makes them right, a marching for example; of others' by
    :meth:`checked`.
    """

    index: Int[Tensor, "N"]
    count: int

    @classmethod
    def checked(cls, ray_indices: Any, n_rays: int | None, n_samples: int) -> "Rays":
        """Rays of ``n_samples`` samples; ``n_rays`` is by default up to the last that has any.

        Raises:
            UserError: if an index is missing, out of range or out of order; of rays that were
                checked before, if they are not of so many samples.
        """
        if isinstance(ray_indices, Rays):
            if len(ray_indices.index) != n_samples:
                raise UserError(f"{len(ray_indices.index)} samples of Rays, got {n_samples}.")
            return ray_indices
        return cls(ray_indices, _check_rays(ray_indices, n_rays, n_samples, sort=True))

    @cached_property
    def packed_info(self) -> Int[Tensor, "R 2"]:
        """First sample and number of samples of each ray."""
        rays = torch.arange(self.count + 1, device=self.index.device)
        bounds = torch.searchsorted(self.index.contiguous(), rays)
        return torch.stack([bounds[:-1], bounds.diff()], dim=1)


def pack_info(ray_indices: Int[Tensor, "N"], n_rays: int | None = None) -> Int[Tensor, "R 2"]:
    """First sample and number of samples of each ray; ``ray_indices`` sorted.

    Raises:
        UserError: if an index is out of range or out of order.
    """
    return Rays.checked(ray_indices, n_rays, ray_indices.numel()).packed_info


def exclusive_sum(
    values: Float[Tensor, "*S"], packed_info: Int[Tensor, "R 2"] | Rays | None = None
) -> Float[Tensor, "*S"]:
    """Sum of the samples before each sample of its ray."""
    if packed_info is None:
        return torch.nn.functional.pad(values[..., :-1], (1, 0)).cumsum(-1)
    check_tensor("values", values, "(N,)", ndim=1)
    if isinstance(packed_info, Rays):
        packed_info = Rays.checked(packed_info, None, len(values)).packed_info
    else:
        _check_packs(packed_info, values)
    return _ExclusiveSum.apply(values, packed_info.contiguous(), False)


def _check_packs(packed_info: Tensor, values: Tensor) -> None:
    if packed_info.dtype != torch.int64 or packed_info.device != values.device:
        raise UserError(f"packed_info must be int64 on {values.device}.")
    first, count = packed_info.unbind(1)
    inside = (first >= 0) & (count >= 0) & (first + count <= values.shape[0])
    if not bool(inside.all()):
        raise UserError(f"packed_info names samples outside 0..{values.shape[0] - 1}.")


def render_transmittance_from_density(
    t_starts: Float[Tensor, "*S"] | Int[Tensor, "*S"],
    t_ends: Float[Tensor, "*S"] | Int[Tensor, "*S"],
    sigmas: Float[Tensor, "*S"],
    packed_info: Int[Tensor, "R 2"] | None = None,
    ray_indices: Int[Tensor, "N"] | Rays | None = None,
    n_rays: int | None = None,
    prefix_trans: Float[Tensor, "*S"] | None = None,
) -> tuple[Float[Tensor, "*S"], Float[Tensor, "*S"]]:
    """Transmittance T (before each sample, in [0, 1]) and opacity α of each sample.

    ``prefix_trans`` multiplies T, for rays continued from elsewhere. Half-precision ``sigmas`` are
    widened to the precision of ``t_starts``; integer distances take that of ``sigmas``.

    Raises:
        UserError: on a wrong shape, dtype or device, or rays that are not sorted.
    """
    t_starts, t_ends = _as_real(t_starts, sigmas), _as_real(t_ends, sigmas)
    check_tensor("t_starts", t_starts, "(N,) or (rays, samples)")
    sigmas = _widen(sigmas, t_starts)
    for name, value in (("t_ends", t_ends), ("sigmas", sigmas), ("prefix_trans", prefix_trans)):
        if value is not None:
            shape = f"{tuple(t_starts.shape)} like t_starts"
            check_tensor(name, value, shape, ndim=t_starts.ndim, like=t_starts)
            if value.shape != t_starts.shape:
                raise UserError(f"{name} must have shape {shape}, got {tuple(value.shape)}.")
    if packed_info is None and ray_indices is not None:
        packed_info = Rays.checked(ray_indices, n_rays, t_starts.shape[0])
    optical_depth = sigmas * (t_ends - t_starts)
    trans = torch.exp(-exclusive_sum(optical_depth, packed_info))
    if prefix_trans is not None:
        trans = trans * prefix_trans
    return trans, -torch.expm1(-optical_depth)


def render_weight_from_density(
    t_starts: Float[Tensor, "*S"] | Int[Tensor, "*S"],
    t_ends: Float[Tensor, "*S"] | Int[Tensor, "*S"],
    sigmas: Float[Tensor, "*S"],
    packed_info: Int[Tensor, "R 2"] | None = None,
    ray_indices: Int[Tensor, "N"] | Rays | None = None,
    n_rays: int | None = None,
    prefix_trans: Float[Tensor, "*S"] | None = None,
) -> tuple[Float[Tensor, "*S"], Float[Tensor, "*S"], Float[Tensor, "*S"]]:
    """Weights w = T α, transmittance T and opacity α of each sample.

    Raises:
        UserError: as :func:`render_transmittance_from_density`.
    """
    trans, alphas = render_transmittance_from_density(
        t_starts, t_ends, sigmas, packed_info, ray_indices, n_rays, prefix_trans
    )
    return trans * alphas, trans, alphas


def visible_samples(
    trans: Float[Tensor, "N"],
    alphas: Float[Tensor, "N"],
    early_stop_eps: float | int,
    alpha_thre: Float[Tensor, ""],
) -> Bool[Tensor, "N"]:
    """Samples that still receive light (T >= early_stop_eps) and, for a threshold above 0, are not
    empty."""
    return (trans >= early_stop_eps) & ((alphas >= alpha_thre) | (alpha_thre <= 0))


def accumulate_along_rays(
    weights: Float[Tensor, "*S"],
    values: Float[Tensor, "*S C"] | None = None,
    ray_indices: Int[Tensor, "N"] | Rays | None = None,
    n_rays: int | None = None,
) -> Float[Tensor, "R D"]:
    """Per ray Σ w_i v_i, (n_rays, C); without ``values`` Σ w_i, (n_rays, 1).

    Half-precision ``values`` are widened to the precision of ``weights``. The samples need no
    order; on CUDA the order of summation, hence the last bit, may vary.

    Raises:
        UserError: on a wrong shape, dtype or device, or a ray index outside 0..n_rays-1.
    """
    check_tensor("weights", weights, "(N,) or (rays, samples)")
    if values is None:
        weighted = weights[..., None]
    else:
        values = _widen(values, weights)
        check_tensor("values", values, "(N, C)", ndim=weights.ndim + 1, like=weights)
        if values.shape[:-1] != weights.shape:
            raise UserError(
                f"values must have one row per weight, {tuple(weights.shape)} + (C,), got "
                f"{tuple(values.shape)}."
            )
        weighted = weights[..., None] * values
    if ray_indices is None:
        return weighted.sum(-2)
    if isinstance(ray_indices, Rays):
        rays = Rays.checked(ray_indices, None, len(weights))
        ray_indices, n_rays = rays.index, rays.count
    elif n_rays is None:
        raise UserError("accumulate_along_rays needs n_rays with ray_indices.")
    else:
        _check_rays(ray_indices, n_rays, weights.shape[0], sort=False)
    # torch sums as fast as a kernel here.
    return weighted.new_zeros(n_rays, weighted.shape[-1]).index_add(0, ray_indices, weighted)
