"""One pass of the critic: its settings, its prediction, and the targets it may be compared with.

A network's loss is taken in its own prediction space. For a v critic

    |v_phi - v(eps)|^2 = |e_phi - eps|^2 / abar_t    at the same x_t,

and the same for e_y: the factor 1/abar_t is common to both terms. It leaves the optimum at each x_t
where it is and only lets noisy timesteps weigh more, so we keep the plain mean squared error, with
which v networks are trained (the official code too), and do not undo the factor.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.noising import NoisyBatch
from threestudio_asd.distill.prediction_types import check_prediction_type, from_epsilon, stated
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.distill.schedule import NoiseSchedule
from threestudio_asd.errors import UserError

GammaTarget = Literal["epsilon", "official"]
GAMMA_TARGETS: tuple[str, ...] = get_args(GammaTarget)


def check_gamma(gamma: float) -> None:
    """The loss is bounded below, hence has a minimum, for gamma > -1 only.

    Its curvature in e_phi is 2 (1 + gamma). At gamma = -1 it is linear: the critic runs away as far
    as its step count lets it (the paper's 2D setting); a ``UserWarning`` says so.

    Raises:
        UserError: gamma < -1 (the loss is concave) or not a number.
    """
    if not gamma >= -1.0 or math.isinf(gamma):
        raise UserError(
            f"gamma must be at least -1; got {gamma}. Below -1 the critic's loss is concave and "
            "training diverges: use a value in (-1, 0], such as -0.75."
        )
    if gamma == -1.0:
        warnings.warn(
            "gamma = -1: the critic's loss has no minimum, so its result depends on the learning "
            "rate and the number of steps; use a value above -1, such as -0.75, to be safe.",
            UserWarning,
            stacklevel=2,
        )


@dataclass(frozen=True)
class CriticSettings:
    """Settings of the critic's loss; checked once, when they are made.

    Args:
        gamma: Weight of the repelling term, >= -1; negative repels, 0 is VSD, positive attracts.
        gamma_target: ``"epsilon"``: the critic is compared with e_y itself, whatever it predicts.
            ``"official"``: as the official code has it; see the function ``gamma_target``.

    Raises:
        UserError: gamma < -1, or an unknown ``gamma_target``.
    """

    gamma: float = 0.0
    gamma_target: str = "epsilon"

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        if self.gamma_target not in GAMMA_TARGETS:
            raise UserError(
                f"Unknown gamma_target '{self.gamma_target}'; "
                f"choose one of: {', '.join(GAMMA_TARGETS)}."
            )


@dataclass(frozen=True, eq=False)
class CriticStep:
    """The critic's pass at one noisy batch.

    Args:
        prediction: Its raw output, with gradient.
        prediction_type: What that output states.
        schedule: The critic's own noise schedule.
        predictions: The noisy batch, and what the objective declared to read of the teacher, in
            epsilon space (``cond`` is e_y without guidance).
    """

    prediction: Float[Tensor, "B C H W"]
    prediction_type: str
    schedule: NoiseSchedule
    predictions: Predictions

    def __post_init__(self) -> None:
        check_prediction_type(self.prediction_type)

    @property
    def noisy(self) -> NoisyBatch:
        """The noisy batch that the critic saw."""
        return self.predictions.noisy

    def in_its_space(
        self, x0: Float[Tensor, "B C H W"], epsilon: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """``x0`` and ``epsilon`` as the critic would state them: a x_0 + b eps."""
        return stated(self.schedule, x0, epsilon, self.noisy.t, self.prediction_type)


def denoise_target(step: CriticStep) -> Float[Tensor, "B C H W"]:
    """The draw in the critic's space: eps; alpha eps - sigma x_0; x_0; eps - x_0."""
    return step.in_its_space(step.noisy.x0, step.noisy.noise)


def gamma_target(step: CriticStep, kind: str) -> Float[Tensor, "B C H W"]:
    """The teacher's e_y in the critic's space.

    ``"epsilon"``: what e_y means at this x_t,      v = (e_y - sigma x_t) / alpha.
    ``"official"``: e_y beside the *true* x_0,      v = alpha e_y - sigma x_0,
    which shrinks the term by abar_t at high noise. For an epsilon critic both are e_y.

    Raises:
        UserError: The objective did not declare ``cond``, or ``"official"`` is asked of a critic
            that predicts x_0 (its target would be x_0 itself).
    """
    e_y = step.predictions["cond"]
    if kind != "official":
        x_t, t = step.noisy.x_t, step.noisy.t
        return from_epsilon(step.schedule, e_y, x_t, t, step.prediction_type)
    if step.prediction_type == "sample":
        raise UserError(
            "gamma_target 'official' is not defined for a critic that predicts x_0; "
            "use gamma_target 'epsilon'."
        )
    return step.in_its_space(step.noisy.x0, e_y)


def mean_squared_error(
    prediction: Float[Tensor, "B C H W"], target: Float[Tensor, "B C H W"]
) -> Float[Tensor, ""]:
    """Mean over all entries, in single precision or better; the target gets no gradient."""
    kind = torch.promote_types(prediction.dtype, torch.float32)
    return F.mse_loss(prediction.to(kind), target.detach().to(kind))
