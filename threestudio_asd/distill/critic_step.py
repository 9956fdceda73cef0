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

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.distill.guidance import perp_neg
from threestudio_asd.distill.schedule import NoiseSchedule, check_prediction_type, from_epsilon
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
    """What a config says about the critic's loss; checked once, when it is made.

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
    """One forward pass of the critic, and what it may be compared with.

    Args:
        prediction: The critic's output, with gradient, in the space ``prediction_type``.
        prediction_type: ``"epsilon"``, ``"v_prediction"`` or ``"sample"``.
        schedule: The critic's noise schedule.
        x0: Clean latents of the renders (no gradient).
        noise: The eps that was drawn.
        x_t: alpha_t x0 + sigma_t noise.
        t: Timesteps.
        teacher: e_y in epsilon space from ``gamma_teacher``; ``None`` if the objective needs none.
    """

    prediction: Float[Tensor, "B C H W"]
    prediction_type: str
    schedule: NoiseSchedule
    x0: Float[Tensor, "B C H W"]
    noise: Float[Tensor, "B C H W"]
    x_t: Float[Tensor, "B C H W"]
    t: Int[Tensor, " B"]
    teacher: Float[Tensor, "B C H W"] | None = None

    def __post_init__(self) -> None:
        check_prediction_type(self.prediction_type)


def gamma_teacher(
    settings: CriticSettings,
    cond: Float[Tensor, "B C H W"],
    null: Float[Tensor, "B C H W"] | None = None,
    negatives: Float[Tensor, "B K C H W"] | None = None,
    negative_weights: Float[Tensor, "B K"] | None = None,
) -> Float[Tensor, "B C H W"]:
    """The e_y of the gamma term: without guidance, and with perp-neg where there are negatives.

    ``"epsilon"`` moves e_y as the generator does, across the guidance direction, so that both
    updates speak of one e_y and ``optimal_critic`` holds; it needs ``null``. ``"official"``
    projects the raw predictions, which needs no ``null``.

    Raises:
        UserError: ``"epsilon"`` with negatives but without ``null``.
    """
    if negatives is None or negative_weights is None:
        return cond
    if settings.gamma_target == "official":
        return perp_neg(cond, negatives, negative_weights, origin=None)
    if null is None:
        raise UserError(
            "gamma_target 'epsilon' with perp-neg needs the teacher's unconditional prediction; "
            "pass null, or use gamma_target 'official'."
        )
    return perp_neg(cond, negatives, negative_weights, origin=null)


def denoise_target(step: CriticStep) -> Float[Tensor, "B C H W"]:
    """What was drawn, in the critic's space: eps; alpha eps - sigma x_0; or x_0."""
    return _with_true_x0(step, step.noise)


def gamma_target(step: CriticStep, kind: str) -> Float[Tensor, "B C H W"]:
    """The teacher's e_y in the critic's space.

    ``"epsilon"``: what e_y means at this x_t,      v = (e_y - sigma x_t) / alpha.
    ``"official"``: e_y beside the *true* x_0,      v = alpha e_y - sigma x_0,
    which shrinks the term by abar_t at high noise. For an epsilon critic both are e_y.

    Raises:
        UserError: The step holds no teacher prediction, or ``"official"`` is asked of a critic that
            predicts x_0 (its target would be x_0 itself).
    """
    if step.teacher is None:
        raise UserError("The critic's gamma term needs the teacher's prediction; pass teacher.")
    if kind == "official":
        if step.prediction_type == "sample":
            raise UserError(
                "gamma_target 'official' is not defined for a critic that predicts x_0; "
                "use gamma_target 'epsilon'."
            )
        return _with_true_x0(step, step.teacher)
    return from_epsilon(step.schedule, step.teacher, step.x_t, step.t, step.prediction_type)


def _with_true_x0(step: CriticStep, epsilon: Tensor) -> Tensor:
    if step.prediction_type == "epsilon":
        return epsilon
    if step.prediction_type == "sample":
        return step.x0
    alpha = step.schedule.alpha(step.t, step.x0)
    sigma = step.schedule.sigma(step.t, step.x0)
    return alpha * epsilon - sigma * step.x0


def mean_squared_error(
    prediction: Float[Tensor, "B C H W"], target: Float[Tensor, "B C H W"]
) -> Float[Tensor, ""]:
    """Mean over all entries, in single precision; the target gets no gradient."""
    return F.mse_loss(prediction.float(), target.detach().float())
