"""Gradients that pass a network in float16, scaled to fit its range.

A loss that is a mean over a latent's 4 x 64 x 64 numbers has gradients of some 1e-4 at the UNet's
output, and smaller ones within. float16 rounds coarsely below 6e-5 and knows nothing below 6e-8:
much of what should reach the first layers is lost. Loss scaling (Micikevicius et al. 2018,
arXiv:1710.03740, section 3.2) would ask every trainer to know of it; here it happens between the
network's output and its inputs, and nobody outside sees more than better gradients.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# The largest gradient that enters the network, in the order of trial: the first leaves a factor of
# 4096 up to float16's largest number; the others are for networks that need more.
PEAKS = (2.0**4, 2.0**-4, 2.0**-12)


def call_scaled(module: nn.Module, *args: Any) -> Tensor:
    """``module(*args)``, with gradients for its parameters and for the tensors among ``args``.

    To the eye the result and its gradients are those of a plain call, whatever the loss's size:
    within, each backward pass multiplies the gradient by a power of two that brings its largest
    entry to ``PEAKS[0]``, and divides what comes out, in the precision of the parameters (float32).
    Should a gradient leave float16's range, the pass is repeated with a smaller factor. It stays
    not finite, for the trainer to see, if no factor helps or if it was so before.

    Parameters that ``module`` does not own get no gradient. Second derivatives raise an error.
    """
    names, parameters = zip(*module.named_parameters(), strict=True)

    def run(*tensors: Any) -> Tensor:
        own = dict(zip(names, tensors, strict=False))
        return torch.func.functional_call(module, own, tensors[len(own) :])

    return _Scaled.apply(run, *parameters, *args)


class _Scaled(Function):
    """A graph of its own, from copies of the inputs (their storage is shared) to the output.

    Other than scaling by nodes at the network's borders, this can be repeated, and sees every
    parameter wherever the network uses it.
    """

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Tensor], *inputs: Any) -> Tensor:
        ctx.leaves = [
            x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x
            for x in inputs
        ]
        with torch.enable_grad():
            output = run(*ctx.leaves)
        # Saved rather than kept: autograd then frees the inner graph when it frees the outer one.
        ctx.save_for_backward(output)
        return output.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (output,) = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        leaves = [leaf for leaf, need in zip(ctx.leaves, needed, strict=True) if need]
        found = iter(_gradients(output, leaves, grad))
        return None, *(next(found) if need else None for need in needed)


def _gradients(
    output: Tensor, leaves: Sequence[Tensor], grad: Float[Tensor, "*S"]
) -> list[Tensor | None]:
    size = grad.abs().amax()
    for peak in PEAKS:
        # The clamp is for a gradient of zero.
        scale = torch.exp2(torch.floor(torch.log2(peak / size.clamp(min=2.0**-100))))
        scaled = torch.autograd.grad(
            output, leaves, grad * scale, retain_graph=True, allow_unused=True
        )
        norm = torch.nn.utils.get_total_norm([g for g in scaled if g is not None])
        if norm.isfinite() or not size.isfinite():
            break
    return [g if g is None else g / scale for g in scaled]
