"""From two predictions to the gradient of the rendered latents.

    grad = w(t) (target - source)

This line and the loss that carries it into autograd exist here and nowhere else.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError


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


def reparametrised_loss(
    latents: Float[Tensor, "B C H W"], grad: Float[Tensor, "B C H W"]
) -> Float[Tensor, ""]:
    """A scalar whose gradient with respect to ``latents`` is ``grad / B``.

        0.5 |latents - stop(latents - grad)|^2 / B

    Summed over all entries and divided by the batch size (threestudio's convention): the value is
    0.5 |grad|^2 / B and tells how strong the push is, not how good the image.
    """
    destination = (latents - grad).detach()
    return 0.5 * F.mse_loss(latents, destination, reduction="sum") / latents.shape[0]
