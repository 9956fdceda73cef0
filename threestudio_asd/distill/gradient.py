"""From two predictions to the gradient of the rendered latents.

    grad = w(t) (target - source)

This line and the loss that carries it into autograd exist here and nowhere else. How much of the
gradient reaches the latents is a column of the method table: codes differ by up to 2 B C H W, and
learning rates with them.
"""

import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.registry import Registry

#: Of a batch's shape (B, C, H, W): what the sum over all entries is divided by.
Reduction = Callable[[Sequence[int]], float]
REDUCTIONS: Registry[Reduction] = Registry("reduction")
#: The mean over the items of the sum over an item's entries: threestudio's.
REDUCTIONS.add("batch", lambda shape: shape[0])
#: The mean over all entries.
REDUCTIONS.add("mean", lambda shape: math.prod(shape))
#: The sum over items and channels of the mean over pixels.
REDUCTIONS.add("pixel", lambda shape: shape[2] * shape[3])
#: The sum over all entries.
REDUCTIONS.add("sum", lambda shape: 1.0)

# Keeps a gradient of 0 at 0 (CSD's value).
_LEAST_NORM = 1e-8


def distillation_gradient(
    target: Float[Tensor, "B C H W"],
    source: Float[Tensor, "B C H W"],
    weight: Float[Tensor, "B 1 1 1"],
) -> Float[Tensor, "B C H W"]:
    """w(t) (target - source), detached: no network is differentiated for the generator."""
    return (weight * (target - source)).detach()


def clip_gradient(grad: Float[Tensor, "B C H W"], limit: float | None) -> Float[Tensor, "B C H W"]:
    """Clamp each entry to [-limit, limit]; ``None`` leaves the gradient as it is.

    Entry by entry, as threestudio's ``grad_clip`` (Hong et al. 2023, arXiv:2303.15413).

    Raises:
        UserError: ``limit`` is not positive.
    """
    if limit is None:
        return grad
    if not limit > 0.0:
        raise UserError(f"grad_clip must be positive; got {limit}. Leave it out to clip nothing.")
    return grad.clamp(-limit, limit)


def normalise_gradient(grad: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Each item's gradient at an L2 norm of 1; 0 stays 0.

    (CSD's coarse stage. Its code divides by the norm of the whole batch, so that the items of a
    batch depend on each other; for a batch of one it is the same.)
    """
    return grad / (grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + _LEAST_NORM)


def reparametrised_loss(
    latents: Float[Tensor, "B C H W"], grad: Float[Tensor, "B C H W"], divisor: float | None = None
) -> Float[Tensor, ""]:
    """A scalar whose gradient with respect to ``latents`` is ``grad / divisor``.

        0.5 |latents - stop(latents - grad)|^2 / divisor

    Summed over all entries and divided by B, the default, in threestudio's convention. The value is
    0.5 |grad|^2 / divisor and tells how strong the push is, not how good the image.
    """
    destination = (latents - grad).detach()
    divisor = latents.shape[0] if divisor is None else divisor
    return 0.5 * F.mse_loss(latents, destination, reduction="sum") / divisor
