"""Adversarial terms, of a discriminator's logits: (B, ...) in, one number per item out.

Binary cross entropy of logits is a softplus, so SiDA's and DMD2's losses are one function; they
differ in where the logits come from, in what is averaged and in whether real and generated
pictures share their noise.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError


def averaged(items: Float[Tensor, " B"], over: int) -> Float[Tensor, " B"]:
    """Each item replaced by the mean of its group: ``over`` items, one after the other.

    SiDA first takes the mean over what one GPU holds at a time and then weighs every item, so that
    a picture's weight also counts its neighbours' fakeness. 1 leaves each item alone; 0 takes the
    whole batch.

    Raises:
        UserError: The batch is no multiple of ``over``.
    """
    over = over or len(items)
    if len(items) % over:
        raise UserError(
            f"A batch of {len(items)} cannot be averaged over groups of {over}; "
            "choose a divisor for average_over."
        )
    return items.view(-1, over).mean(dim=1).repeat_interleave(over)


def bce(
    logits: Float[Tensor, "B *rest"], real: bool, over: int = 1, limit: float | None = None
) -> Float[Tensor, " B"]:
    """-log D or, for pictures that are to be called generated, -log(1 - D); D = sigmoid(logit).

    softplus(-logit) and softplus(logit), the mean over an item's logits and then over groups of
    items (``averaged``). The generator's non-saturating loss is that of a real picture.
    (SiDA, Zhou et al. 2024, arXiv:2410.14919; DMD2, Yin et al. 2024, arXiv:2405.14867.)

    Args:
        limit: Logits are clamped to [-limit, limit] and have no gradient outside.
    """
    if limit is not None:
        logits = logits.clamp(-limit, limit)
    return averaged(_per_item(F.softplus(-logits if real else logits)), over)


def hinge(logits: Float[Tensor, "B *rest"], real: bool) -> Float[Tensor, " B"]:
    """max(0, 1 - D) of real pictures, max(0, 1 + D) of generated ones, the mean over an item's
    logits: the discriminator's loss (ADD, arXiv:2311.17042)."""
    return _per_item(F.relu(1.0 - logits if real else 1.0 + logits))


def hinge_generator(logits: Float[Tensor, "B *rest"]) -> Float[Tensor, " B"]:
    """-D, the mean over an item's logits (ADD, arXiv:2311.17042)."""
    return -_per_item(logits)


def r1(features: Float[Tensor, "B K h w"], logits: Float[Tensor, "B *rest"]) -> Float[Tensor, " B"]:
    """|d D / d features|^2 of each item, D the mean of its logits; differentiable once more.

    (Mescheder et al. 2018, arXiv:1801.04406, on a head's input features in place of pixels as in
    ADD.) The logits must come from ``features``, which must require gradients.
    """
    values = _per_item(logits).sum()
    (gradient,) = torch.autograd.grad(values, features, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def _per_item(x: Float[Tensor, "B *rest"]) -> Float[Tensor, " B"]:
    return x.reshape(len(x), -1).mean(dim=1)
