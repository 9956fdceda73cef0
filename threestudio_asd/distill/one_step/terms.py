"""Score terms as a column of the table: names for what ``scores`` computes."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.gradient import reparametrised_loss
from threestudio_asd.distill.one_step.scores import (
    DISTANCE_WEIGHTS,
    add_distance,
    dmd_gradient,
    inverse_error_weight,
    sid,
)
from threestudio_asd.distill.one_step.settings import OneStepSettings
from threestudio_asd.registry import Registry


@dataclass(frozen=True, eq=False)
class GeneratorSaid:
    """What the networks said of the generator's pictures.

    Args:
        x: The pictures.
        alpha, sigma: Of the noisy pictures that f_real and f_fake are about.
        f_real, f_fake: The networks' x_0 where a row reads them.
        logits: Of each of the discriminator's heads.
    """

    x: Float[Tensor, "B C H W"]
    alpha: Float[Tensor, "B 1 1 1"] | None = None
    sigma: Float[Tensor, "B 1 1 1"] | None = None
    f_real: Float[Tensor, "B C H W"] | None = None
    f_fake: Float[Tensor, "B C H W"] | None = None
    logits: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Score:
    """A kind of score term.

    Args:
        loss: The mean over the latents' entries, with each item's weight.
        reads_fake: Whether it needs the fake network.
        through: Whether its gradient flows through the networks, too.
    """

    loss: Callable[[GeneratorSaid, OneStepSettings], Tensor]
    reads_fake: bool
    through: bool


SCORES: Registry[Score] = Registry("score term")


def register_score(
    name: str, reads_fake: bool, through: bool
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator: register ``(said, settings) -> loss`` under ``name``; see :class:`Score`."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        SCORES.add(name, Score(function, reads_fake, through))
        return function

    return register


@register_score("sid", reads_fake=True, through=True)
def sid_term(said: GeneratorSaid, settings: OneStepSettings) -> Float[Tensor, ""]:
    """SiD's, each item divided by its mean|x - f_r|."""
    items = sid(said.x, said.f_real, said.f_fake, settings.alpha)
    return (inverse_error_weight(said.x, said.f_real) * items).mean() / said.x[0].numel()


@register_score("dmd", reads_fake=True, through=False)
def dmd_term(said: GeneratorSaid, settings: OneStepSettings) -> Float[Tensor, ""]:
    """A value whose gradient is DMD's; it tells how strong the push is."""
    grad = dmd_gradient(said.x, said.f_real, said.f_fake)
    return reparametrised_loss(said.x, grad, divisor=float(said.x.numel()))


@register_score("add", reads_fake=False, through=False)
def add_term(said: GeneratorSaid, settings: OneStepSettings) -> Float[Tensor, ""]:
    """ADD's c(t) |x - f_r|^2."""
    c = DISTANCE_WEIGHTS.get(settings.distance)(said.alpha, said.sigma)
    return add_distance(said.x, said.f_real, c).mean() / said.x[0].numel()
