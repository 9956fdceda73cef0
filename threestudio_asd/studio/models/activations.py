"""The activations that a config can name."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from threestudio_asd.errors import UserError


class TruncatedExp(torch.autograd.Function):
    """exp whose gradient stops growing at x = 15 (as in torch-ngp), to survive a bad step."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * torch.exp(x.clamp(max=15))


def _linear_to_srgb(x: Tensor) -> Tensor:
    # clamp keeps the unused branch of where, and so its gradient, finite.
    curve = 1.055 * x.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(x > 0.0031308, curve, 12.92 * x).clamp(0, 1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "shifted_softplus": lambda x: F.softplus(x - 1),
    "exp": torch.exp,
    "shifted_exp": lambda x: torch.exp(x - 1),
    "trunc_exp": TruncatedExp.apply,
    "shifted_trunc_exp": lambda x: TruncatedExp.apply(x - 1),
    "lin2srgb": _linear_to_srgb,
    "scale_-11_01": lambda x: 0.5 * x + 0.5,
}


def get_activation(name: str | None) -> Callable[[Tensor], Tensor]:
    """The function that ``name`` (any case; None is the identity) stands for.

    Raises:
        UserError: no activation has that name.
    """
    key = "none" if name is None else name.lower()
    if key not in ACTIVATIONS:
        raise UserError(f"Unknown activation '{name}'; choose one of {sorted(ACTIVATIONS)}.")
    return ACTIVATIONS[key]
