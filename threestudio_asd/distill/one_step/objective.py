"""A row's losses, of what its networks said.

Each is a mean over the latents' entries (the score and the denoising terms) or over the items (the
adversarial ones), with its weight. SiD's codes sum over an item's D entries instead, which is D
times as much.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.one_step import adversarial
from threestudio_asd.distill.one_step.denoising import FAKE_WEIGHTS, denoising
from threestudio_asd.distill.one_step.scores import inverse_error_weight
from threestudio_asd.distill.one_step.settings import OneStepSettings
from threestudio_asd.distill.one_step.table import OneStepMethod
from threestudio_asd.distill.one_step.terms import GeneratorSaid

Logits = tuple[Tensor, ...]
Losses = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class FakeSaid:
    """What the fake network and the discriminator said of generated and of real pictures.

    Args:
        x: The generated pictures, data here.
        level: E at their times.
        f_fake: The fake network's x_0; None for a row without one.
        logits_fake, logits_real: Of each of the discriminator's heads.
        real_features: What those heads made the real pictures' logits of, for R1.
    """

    x: Float[Tensor, "B C H W"]
    level: Float[Tensor, "B 1 1 1"] | None = None
    f_fake: Float[Tensor, "B C H W"] | None = None
    logits_fake: Logits = ()
    logits_real: Logits = ()
    real_features: Logits = ()


def generator_losses(
    method: OneStepMethod, settings: OneStepSettings, said: GeneratorSaid
) -> Losses:
    """``score`` and ``adversarial``, as far as there are logits for it."""
    losses = {}
    if method.score_term is not None:
        losses["score"] = settings.score_weight * method.score_term.loss(said, settings)
    if said.logits:
        weight = torch.ones(len(said.x), device=said.x.device)
        if settings.adversarial_per_error:
            weight = inverse_error_weight(said.x, said.f_real)
        per_head = [_fooled(method, settings, logits) for logits in said.logits]
        items = torch.stack(per_head).sum(dim=0)
        losses["adversarial"] = settings.adversarial_weight * (weight * items).mean()
    return losses


def fake_losses(method: OneStepMethod, settings: OneStepSettings, said: FakeSaid) -> Losses:
    """``fake``, ``discriminator`` and ``r1``, as far as the row has them."""
    losses = {}
    weight = None
    if method.fake is not None:
        weigh = FAKE_WEIGHTS.get(method.fake)
        weight = weigh(said.level, settings.sigma_data).flatten()
        per_entry = denoising(said.f_fake, said.x) / said.x[0].numel()
        losses["fake"] = (weight * per_entry).mean()
    if said.logits_real:
        pairs = zip(said.logits_real, said.logits_fake, strict=True)
        items = torch.stack([_told(method, settings, *pair) for pair in pairs]).sum(dim=0)
        items = weight * items if settings.discriminator_per_level else items
        losses["discriminator"] = settings.discriminator_weight * items.mean()
    if said.logits_real and settings.r1_weight:
        pairs = zip(said.real_features, said.logits_real, strict=True)
        penalty = torch.stack([adversarial.r1(*pair) for pair in pairs]).sum(dim=0).mean()
        losses["r1"] = settings.r1_weight * penalty
    return losses


def _fooled(method: OneStepMethod, settings: OneStepSettings, logits: Tensor) -> Tensor:
    """The generator's loss of one head, for each item."""
    if method.discriminator.loss == "hinge":
        return adversarial.hinge_generator(logits)
    limit = settings.logit_limit
    return adversarial.bce(logits, real=True, over=settings.average_over, limit=limit)


def _told(method: OneStepMethod, settings: OneStepSettings, real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss of one head, for each pair of a real and a generated picture."""
    if method.discriminator.loss == "hinge":
        return adversarial.hinge(real, True) + adversarial.hinge(fake, False)
    over = settings.average_over
    return adversarial.bce(real, True, over) + adversarial.bce(fake, False, over)
