"""Critic objectives: what the trainable score phi learns on the current renders.

ASD reads distillation as a WGAN whose discriminator is log p(y | x_t) - log p(phi | x_t), phi a
learned "fake prompt". Trained on renders alone, its loss is

    L(phi) = E[ |e_phi - eps|^2 + gamma |e_phi - e_y|^2 ],    gamma in (-1, 0]

(Wei et al. 2023, arXiv:2312.00739; gamma = 0 is VSD's critic, Wang et al. 2023, arXiv:2305.16213).
The first term learns the renders' score, the second pushes it away from the teacher's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.critic_step import (
    CriticSettings,
    CriticStep,
    denoise_target,
    gamma_target,
    mean_squared_error,
)
from threestudio_asd.errors import UserError
from threestudio_asd.registry import Registry

# An objective returns its terms by name, weights included; the loss is their sum.
ObjectiveTerms = dict[str, Tensor]
ObjectiveFunction = Callable[[CriticStep, CriticSettings], ObjectiveTerms]


@dataclass(frozen=True)
class CriticObjective:
    """A registered objective.

    Args:
        name: Its name in method rows.
        function: ``(step, settings) -> {term name: scalar}``; the loss is the sum.
        needs: The teacher's predictions that are read under given settings, by name; no others are
            evaluated.
    """

    name: str
    function: ObjectiveFunction
    needs: Callable[[CriticSettings], tuple[str, ...]]

    def terms(self, step: CriticStep, settings: CriticSettings) -> ObjectiveTerms:
        """The terms, of what the objective declared and of nothing else."""
        reader = f"the critic objective '{self.name}'"
        limited = step.predictions.limited(self.needs(settings), reader)
        return self.function(replace(step, predictions=limited), settings)


CRITIC_OBJECTIVES: Registry[CriticObjective] = Registry("critic objective")


def register_critic_objective(
    name: str, needs: Callable[[CriticSettings], tuple[str, ...]] = lambda settings: ()
) -> Callable[[ObjectiveFunction], ObjectiveFunction]:
    """Decorator: register an objective under ``name``; see ``CriticObjective``."""

    def register(function: ObjectiveFunction) -> ObjectiveFunction:
        CRITIC_OBJECTIVES.add(name, CriticObjective(name, function, needs))
        return function

    return register


@register_critic_objective("denoise")
def denoise_objective(step: CriticStep, settings: CriticSettings) -> ObjectiveTerms:
    """E |e_phi - eps|^2: the score of the renders (VSD; Wang et al. 2023, arXiv:2305.16213)."""
    return {"denoise": mean_squared_error(step.prediction, denoise_target(step))}


@register_critic_objective("asd", needs=lambda settings: ("cond",) if settings.gamma else ())
def asd_objective(step: CriticStep, settings: CriticSettings) -> ObjectiveTerms:
    """E[ |e_phi - eps|^2 + gamma |e_phi - e_y|^2 ] (ASD; Wei et al. 2023, arXiv:2312.00739).

    At gamma = 0 this is ``denoise_objective``, to the bit: the second term is not computed.
    """
    terms = denoise_objective(step, settings)
    if settings.gamma != 0.0:
        target = gamma_target(step, settings.gamma_target)
        terms["repel"] = settings.gamma * mean_squared_error(step.prediction, target)
    return terms


def optimal_critic(
    eps_bar: Float[Tensor, "B C H W"],
    e_y: Float[Tensor, "B C H W"],
    gamma: float,
    pull: Float[Tensor, "B 1 1 1"] | float = 1.0,
) -> Float[Tensor, "B C H W"]:
    """The minimiser of ASD's loss, for tests and for reading.

    Given x_t the loss is quadratic in e_phi; with eps_bar = E[eps | x_t] over the renders,

        0 = 2 (e_phi - eps_bar) + 2 gamma (e_phi - e_y)
        e_phi* = (eps_bar + gamma e_y) / (1 + gamma) = eps_bar + gamma/(1 + gamma) (e_y - eps_bar).

    A v critic with the official gamma target compares v_phi with alpha eps - sigma x_0 and with
    alpha e_y - sigma x_0. The x_0 of both have the same mean, so v_phi* - v_bar is
    gamma/(1 + gamma) alpha (e_y - eps_bar); in epsilon space it gains another alpha: ``pull`` is
    abar_t, and 1 in every other case.

    Raises:
        UserError: gamma <= -1, where no minimum exists.
    """
    if not gamma > -1.0:
        raise UserError(f"The critic's loss has no minimum at gamma = {gamma}; use gamma > -1.")
    return eps_bar + pull * gamma / (1.0 + gamma) * (e_y - eps_bar)


def rescaled_scale(scale: float, gamma: float) -> float:
    """s' = 1 + (s - 1)(1 + gamma): with an optimal critic, ASD at s is VSD at s'.

    e^s - e_phi* = (s - 1)(e_y - e_null) + (e_y - e_phi*), where ``optimal_critic`` makes the last
    part (e_y - eps_bar)/(1 + gamma): the direction is 1/(1 + gamma) times that of VSD at s'. It
    holds per camera, with one e_y in both updates, gamma_target "epsilon", no guidance rescale.
    """
    return 1.0 + (scale - 1.0) * (1.0 + gamma)
