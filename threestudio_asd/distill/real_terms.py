"""The discriminator's terms on real pictures, and its optimum with them.

A WGAN's discriminator tells renders from real pictures. With D(x_t; y) = log p(y | x_t) -
log p(phi | x_t) its loss is, beside that on renders (``critic``),

    lambda E_real[ -|e_phi(x_r) - eps|^2 + a |e_phi(x_r) - e_y(x_r)|^2 ]

(Wei et al. 2023, arXiv:2312.00739, eqs. 8 and 9, there lambda = 1 and a = 1/2): the fake prompt
shall not explain real pictures, and is held near the teacher on them. y is a picture's caption.

For a < 1 the terms alone have no minimum. At an x_t of densities p_f of renders and p_r of real
pictures the whole loss is quadratic in e_phi, of curvature

    2 [ (1 + gamma) p_f - (1 - a) lambda p_r ]:

it has a minimum where the renders are dense enough, and elsewhere the critic runs away as far as
its network lets it.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.critic_step import (
    CriticStep,
    denoise_target,
    gamma_target,
    mean_squared_error,
)
from threestudio_asd.errors import UserError

#: The paper's a.
ATTRACTION = 0.5


def real_terms(
    step: CriticStep, weight: float, attraction: float = ATTRACTION
) -> dict[str, Float[Tensor, ""]]:
    """``real_denoise``, -lambda |e_phi - eps|^2, and ``real_attract``, lambda a |e_phi - e_y|^2:
    means over the batch and its entries, in the critic's space.

    Args:
        step: The critic's pass at noised real pictures; ``cond`` is e_y for their captions.
        weight: lambda.
        attraction: a.
    """
    e_y = gamma_target(step, "epsilon")
    return {
        "real_denoise": -weight * mean_squared_error(step.prediction, denoise_target(step)),
        "real_attract": weight * attraction * mean_squared_error(step.prediction, e_y),
    }


def optimal_discriminator(
    eps_fake: Float[Tensor, "B C H W"],
    eps_real: Float[Tensor, "B C H W"],
    e_y: Float[Tensor, "B C H W"],
    gamma: float,
    odds: Float[Tensor, "B 1 1 1"] | float,
    attraction: float = ATTRACTION,
) -> Float[Tensor, "B C H W"]:
    """The minimiser of the whole loss, on renders and real pictures, for tests and for reading.

    With r = lambda p_r / p_f at x_t, and eps_f, eps_r the mean noises of renders and real pictures,

        0 = (e - eps_f) + gamma (e - e_y) + r [ -(e - eps_r) + a (e - e_y) ]
        e_phi* = (eps_f + gamma e_y - r eps_r + r a e_y) / (1 + gamma - r (1 - a)).

    Real pictures that are distributed as the teacher says have eps_r = e_y: then it is
    ``critic.optimal_critic`` at gamma - r (1 - a), a stronger repulsion where they are.

    Args:
        odds: r.

    Raises:
        UserError: 1 + gamma <= r (1 - a) somewhere: there is no minimum.
    """
    curvature = 1.0 + gamma - torch.as_tensor(odds) * (1.0 - attraction)
    if not bool((curvature > 0).all()):
        raise UserError(
            "The discriminator's loss has no minimum where real pictures are too dense: it needs "
            "1 + gamma > r (1 - a); lower the weight of the real pictures, or raise gamma."
        )
    attracted = gamma + odds * attraction
    return (eps_fake + attracted * e_y - odds * eps_real) / curvature
