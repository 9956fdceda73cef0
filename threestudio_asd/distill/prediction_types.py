"""Prediction types as rows of one affine formula.

A network that sees x_t = alpha x_0 + sigma eps may state any mixture of the two,

    p = a x_0 + b eps,

    type              a        b       source
    epsilon           0        1       Ho et al. 2020, arXiv:2006.11239
    v_prediction     -sigma    alpha   Salimans & Ho 2022, arXiv:2202.00512, sec. 4
    sample            1        0       x_0 itself
    flow_prediction  -1        1       the velocity of a flow; Lipman et al. 2022, arXiv:2210.02747

and x_t turns each into any other. With D = alpha b - sigma a, for p and another type's p', a', b':

    p' = (D' p + (a' b - b' a) x_t) / D.

D is 0 where x_t and p say the same: an epsilon at pure noise (alpha = 0) leaves x_0 open, and so
does an x_0 without noise (sigma = 0) the epsilon. Inside this package every score is an epsilon;
networks that state something else are converted at the border.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.schedule import LEAST_ALPHA, NoiseSchedule, Times
from threestudio_asd.errors import UserError

Coefficient = Callable[[Tensor, Tensor], Tensor | float]


@dataclass(frozen=True)
class PredictionType:
    """p = a x_0 + b eps; ``a`` and ``b`` are functions of alpha and sigma."""

    a: Coefficient
    b: Coefficient


PREDICTION_TYPES: dict[str, PredictionType] = {
    "epsilon": PredictionType(lambda alpha, sigma: 0.0, lambda alpha, sigma: 1.0),
    "v_prediction": PredictionType(lambda alpha, sigma: -sigma, lambda alpha, sigma: alpha),
    "sample": PredictionType(lambda alpha, sigma: 1.0, lambda alpha, sigma: 0.0),
    "flow_prediction": PredictionType(lambda alpha, sigma: -1.0, lambda alpha, sigma: 1.0),
}


def check_prediction_type(name: str) -> None:
    """Raises ``UserError`` unless ``name`` is one of ``PREDICTION_TYPES``."""
    if name not in PREDICTION_TYPES:
        raise UserError(
            f"Unknown prediction type '{name}'; choose one of: {', '.join(PREDICTION_TYPES)}."
        )


def stated(
    schedule: NoiseSchedule,
    x0: Float[Tensor, "B C H W"],
    epsilon: Float[Tensor, "B C H W"],
    t: Times,
    kind: str,
) -> Float[Tensor, "B C H W"]:
    """a x_0 + b eps: what a network of the type ``kind`` states of these two."""
    check_prediction_type(kind)
    row, alpha, sigma = PREDICTION_TYPES[kind], schedule.alpha(t, x0), schedule.sigma(t, x0)
    return row.a(alpha, sigma) * x0 + row.b(alpha, sigma) * epsilon


def converted(
    schedule: NoiseSchedule,
    prediction: Float[Tensor, "B C H W"],
    x_t: Float[Tensor, "B C H W"],
    t: Times,
    kind: str,
    wanted: str,
) -> Float[Tensor, "B C H W"]:
    """A prediction of the type ``kind`` as one of the type ``wanted``.

    From epsilon to any other it divides by alpha_t: an error grows by 1 / alpha_t (15 at t = 999 of
    Stable Diffusion's schedule). Where nothing is determined (D = 0) the result is finite.

    Example:
        >>> schedule = DiscreteSchedule.scaled_linear()
        >>> x0, noise, t = torch.zeros(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([500])
        >>> x_t, v = schedule.add_noise(x0, noise, t), schedule.alpha(t, x0) * noise
        >>> torch.allclose(converted(schedule, v, x_t, t, "v_prediction", "epsilon"), noise)
        True
    """
    check_prediction_type(kind)
    check_prediction_type(wanted)
    if kind == wanted:
        return prediction
    alpha, sigma = schedule.alpha(t, x_t), schedule.sigma(t, x_t)
    a, b = _coefficients(kind, alpha, sigma)
    a_wanted, b_wanted = _coefficients(wanted, alpha, sigma)
    determinant = alpha * b - sigma * a
    determinant = determinant.where(determinant != 0, LEAST_ALPHA)
    mixed = (a_wanted * b - b_wanted * a) * x_t
    return (mixed + (alpha * b_wanted - sigma * a_wanted) * prediction) / determinant


def _coefficients(kind: str, alpha: Tensor, sigma: Tensor) -> tuple[Tensor | float, Tensor | float]:
    row = PREDICTION_TYPES[kind]
    return row.a(alpha, sigma), row.b(alpha, sigma)


def to_epsilon(
    schedule: NoiseSchedule,
    prediction: Float[Tensor, "B C H W"],
    x_t: Float[Tensor, "B C H W"],
    t: Times,
    kind: str,
) -> Float[Tensor, "B C H W"]:
    """Any prediction as epsilon."""
    return converted(schedule, prediction, x_t, t, kind, "epsilon")


def from_epsilon(
    schedule: NoiseSchedule,
    epsilon: Float[Tensor, "B C H W"],
    x_t: Float[Tensor, "B C H W"],
    t: Times,
    kind: str,
) -> Float[Tensor, "B C H W"]:
    """The inverse of :func:`to_epsilon`."""
    return converted(schedule, epsilon, x_t, t, "epsilon", kind)


def to_x0(
    schedule: NoiseSchedule,
    prediction: Float[Tensor, "B C H W"],
    x_t: Float[Tensor, "B C H W"],
    t: Times,
    kind: str,
) -> Float[Tensor, "B C H W"]:
    """The x_0 that a prediction implies, directly: a v needs no division by a small alpha."""
    return converted(schedule, prediction, x_t, t, kind, "sample")
