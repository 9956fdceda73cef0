"""Autograd of the hash grid: three operations, closed under differentiation up to second order.

With table rows θ_c, weights w_c(x) and an upstream gradient g of the features:

    encode     y   = Σ_c w_c θ_c            (two nodes: the derivatives are independent)
    table_grad ∂θ  = Σ w_c g                (linear in g: its derivatives are the other two)
    point_grad ∂x  = Σ_c ∇w_c (θ_c · g)     (its derivative is a kernel of its own)

so a loss on normals, which are gradients in x, reaches the table.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from threestudio_asd.errors import UserError
from threestudio_asd.kernels._hashgrid_spec import GridSpec
from threestudio_asd.kernels._warp import (
    as_array,
    launch_split,
    made_once,
    scalar_type,
    threads_for,
    warp,
)

# Factors of the spatial hash (Müller et al. 2022, equation 4).
PRIMES = (1, 2654435761, 805459861)


@made_once
def _level_arrays(spec: GridSpec, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    from threestudio_asd.kernels._hashgrid_kernels import build

    wp, Level = warp(), build(spec.n_features_per_level, dtype).Level
    levels = np.zeros(spec.n_levels, dtype=Level.numpy_dtype())
    for level, resolution in enumerate(spec.resolutions):
        hashed = spec.hashed[level]
        strides = PRIMES[1:] if hashed else (resolution, resolution**2)
        levels[level] = (spec.offsets[level], spec.sizes[level], *strides, hashed)
    arrays = (
        wp.array(levels, dtype=Level, device=str(device)),
        wp.array(spec.scales, dtype=scalar_type(dtype), device=str(device)),
    )
    wp.synchronize_device(str(device))  # the copies ran on Warp's stream, kernels run on torch's
    return arrays


class _Launch:
    """One launch over the levels of ``spec`` and the points ``x``."""

    def __init__(self, spec: GridSpec, x: Tensor) -> None:
        from threestudio_asd.kernels._hashgrid_kernels import build

        self.spec, self.x, self.n = spec, x, x.shape[0]
        self.kernels = build(spec.n_features_per_level, x.dtype)
        self.threads = threads_for(spec.n_levels, self.n * spec.n_levels, x.device)

    def rows(self, tensor: Tensor) -> Any:
        """A table or (N, L*F) features as vectors of F."""
        return as_array(tensor.view(-1, self.spec.n_features_per_level), self.kernels.Feature)

    def points(self, tensor: Tensor) -> Any:
        """(..., 3) as 3-vectors."""
        return as_array(tensor, self.kernels.Point)

    def new_point_grad(self) -> Tensor:
        """One sum over levels per thread, so that no two threads add to the same memory."""
        return self.x.new_zeros(self.threads, self.n, 3)

    def __call__(self, name: str, inputs: list[Any], outputs: list[Any]) -> None:
        if self.n == 0:
            return
        device = self.x.device
        chunk, inner = (self.n, 1) if device.type == "cpu" else (1, self.n)
        levels = _level_arrays(self.spec, device, self.x.dtype)
        args = [chunk, self.points(self.x), *inputs, *levels, *outputs]
        launch_split(
            getattr(self.kernels, name), self.spec.n_levels, args, device, self.threads, inner
        )


class _Encode(Function):
    """The features, with a derivative in the table only.

    ``points`` is ``x`` as the caller's graph knows it, for second derivatives. It is no tensor
    input on purpose: a gradient in x alone (a normal) then never runs this node's backward,
    which costs as much as the table is large.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, params: Tensor, spec: GridSpec, points: list) -> Tensor:
        ctx.save_for_backward(x)
        ctx.spec, ctx.points = spec, points
        y = x.new_empty(x.shape[0], spec.n_output_dims)
        launch = _Launch(spec, x)
        launch("encode", [launch.rows(params)], [launch.rows(y)])
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # raises if x was changed in place
        return None, _TableGrad.apply(ctx.points[0], g, ctx.spec), None, None


class _WithPointGrad(Function):
    """The features unchanged, with their derivative in x added; ``table`` as ``points`` above."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, spec: GridSpec, table: list) -> Tensor:
        ctx.save_for_backward(x, table[0].detach())
        ctx.spec, ctx.table = spec, table
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, _ = ctx.saved_tensors
        return g, _PointGrad.apply(x, ctx.table[0], g, ctx.spec), None, None


class _TableGrad(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, spec: GridSpec) -> Tensor:
        g = g.contiguous()
        ctx.save_for_backward(x, g)
        ctx.spec = spec
        params_g = x.new_zeros(spec.n_params)
        launch = _Launch(spec, x)
        launch("table_grad", [launch.rows(g)], [launch.rows(params_g)])
        return params_g

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        x, g = ctx.saved_tensors
        v = v.contiguous()
        x_g = _PointGrad.apply(x, v, g, ctx.spec) if ctx.needs_input_grad[0] else None
        g_g = encode(x, v, ctx.spec) if ctx.needs_input_grad[1] else None
        return x_g, g_g, None


class _PointGrad(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, params: Tensor, g: Tensor, spec: GridSpec) -> Tensor:
        g = g.contiguous()
        ctx.save_for_backward(x, params, g)
        ctx.spec = spec
        launch = _Launch(spec, x)
        x_g = launch.new_point_grad()
        launch("point_grad", [launch.rows(params), launch.rows(g)], [launch.points(x_g)])
        return x_g.sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        x, params, g = ctx.saved_tensors
        launch = _Launch(ctx.spec, x)
        x_g, params_g, g_g = launch.new_point_grad(), torch.zeros_like(params), torch.empty_like(g)
        launch(
            "point_grad_backward",
            [launch.rows(params), launch.rows(g), launch.points(u.contiguous())],
            [launch.points(x_g), launch.rows(params_g), launch.rows(g_g)],
        )
        return x_g.sum(0), params_g, g_g, None


def encode(x: Tensor, params: Tensor, spec: GridSpec) -> Tensor:
    """Features (N, L*F) of the points ``x`` (N, 3); twice differentiable in both tensors."""
    if x.shape[0] * spec.n_levels >= 2**31:
        raise UserError(
            f"HashGrid takes at most {2**31 // spec.n_levels} points at once, got {x.shape[0]}. "
            "Fix: encode them in chunks."
        )
    x, params = x.contiguous(), params.contiguous()
    y = _Encode.apply(x.detach(), params, spec, [x])
    return _WithPointGrad.apply(y, x, spec, [params]) if x.requires_grad else y
