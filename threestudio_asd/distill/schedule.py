"""The forward process and the three ways a network may state its prediction.

    x_t = alpha_t x_0 + sigma_t eps,    alpha_t = sqrt(abar_t),    sigma_t = sqrt(1 - abar_t)

(Ho et al. 2020, arXiv:2006.11239, eq. 4.) Inside this package every score is an epsilon prediction;
networks that state something else are converted at the border:

    epsilon       eps
    v_prediction  v = alpha_t eps - sigma_t x_0    (Salimans & Ho 2022, arXiv:2202.00512, sec. 4)
    sample        x_0

Given x_t, each is an affine function of any other.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.errors import UserError

#: In place of 0 where it is divided by abar: the value that diffusers' Euler scheduler takes.
LEAST_ABAR = 2.0**-24

PredictionType = Literal["epsilon", "v_prediction", "sample"]
PREDICTION_TYPES: tuple[str, ...] = get_args(PredictionType)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A discrete variance-preserving schedule.

    With zero terminal SNR (Lin et al. 2023, arXiv:2305.08891) the last level is pure noise: abar is
    0 there, x_t says nothing about x_0 and an epsilon nothing about x_0 or v. Such a level is never
    drawn (``last_step``); what divides by its alpha is finite all the same.

    Args:
        alphas_cumprod: abar_t for t = 0 .. T-1: the share of the signal's power, in (0, 1] but for
            the last levels, which may be 0.

    Raises:
        UserError: A value lies outside [0, 1], no level holds any signal, or one without lies
            between others.
    """

    alphas_cumprod: Float[Tensor, " T"]

    def __post_init__(self) -> None:
        abar = self.alphas_cumprod
        if not bool(((abar >= 0) & (abar <= 1)).all()):
            raise UserError(
                f"alphas_cumprod must lie in [0, 1]; got [{abar.min():g}, {abar.max():g}]. "
                "Use a model with a variance-preserving schedule."
            )
        if self.last_step < 0 or not bool((abar[: self.last_step + 1] > 0).all()):
            raise UserError(
                "alphas_cumprod may be 0 (pure noise) at the last timesteps only. "
                "Use a model whose noise grows with t."
            )

    @classmethod
    def scaled_linear(
        cls, beta_start: float = 0.00085, beta_end: float = 0.012, num_timesteps: int = 1000
    ) -> "NoiseSchedule":
        """Stable Diffusion's: sqrt(beta) is linear in t, and abar_t = prod_{s<=t} (1 - beta_s)."""
        # Single precision, as diffusers computes it, so that both agree to the last bit.
        sqrt_beta = torch.linspace(
            beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float32
        )
        return cls(torch.cumprod(1.0 - sqrt_beta**2, dim=0))

    @property
    def num_timesteps(self) -> int:
        """T."""
        return self.alphas_cumprod.shape[0]

    @cached_property
    def last_step(self) -> int:
        """The last timestep at which x_t holds any signal: T-1, or before with zero terminal SNR;
        -1 if none does."""
        with_signal = torch.nonzero(self.alphas_cumprod > 0)
        return int(with_signal.max()) if len(with_signal) else -1

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        """The same schedule on another device."""
        return NoiseSchedule(self.alphas_cumprod.to(device))

    def abar(self, t: Int[Tensor, " B"], like: Tensor) -> Float[Tensor, "B 1 1 1"]:
        """abar_t with the dtype and device of ``like``, ready to broadcast over (B, C, H, W)."""
        return self._at(t).to(like)

    def alpha(self, t: Int[Tensor, " B"], like: Tensor) -> Float[Tensor, "B 1 1 1"]:
        """alpha_t = sqrt(abar_t)."""
        return self._at(t).sqrt().to(like)

    def sigma(self, t: Int[Tensor, " B"], like: Tensor) -> Float[Tensor, "B 1 1 1"]:
        """sigma_t = sqrt(1 - abar_t)."""
        return (1.0 - self._at(t)).sqrt().to(like)

    def divisor(self, t: Int[Tensor, " B"], like: Tensor) -> Float[Tensor, "B 1 1 1"]:
        """alpha_t, and where that is 0 its least value: what may be divided by."""
        return positive(self._at(t)).sqrt().to(like)

    def add_noise(
        self,
        x0: Float[Tensor, "B C H W"],
        noise: Float[Tensor, "B C H W"],
        t: Int[Tensor, " B"],
    ) -> Float[Tensor, "B C H W"]:
        """x_t = alpha_t x_0 + sigma_t eps."""
        return self.alpha(t, x0) * x0 + self.sigma(t, x0) * noise

    def _at(self, t: Int[Tensor, " B"]) -> Float[Tensor, "B 1 1 1"]:
        return self.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)


def positive(abar: Tensor) -> Tensor:
    """``abar`` with ``LEAST_ABAR`` in place of 0."""
    return abar.where(abar > 0, LEAST_ABAR)


def check_prediction_type(prediction_type: str) -> None:
    """Raises ``UserError`` unless ``prediction_type`` is one of ``PREDICTION_TYPES``."""
    if prediction_type not in PREDICTION_TYPES:
        raise UserError(
            f"Unknown prediction type '{prediction_type}'; "
            f"choose one of: {', '.join(PREDICTION_TYPES)}."
        )


def to_epsilon(
    schedule: NoiseSchedule,
    prediction: Float[Tensor, "B C H W"],
    x_t: Float[Tensor, "B C H W"],
    t: Int[Tensor, " B"],
    prediction_type: str,
) -> Float[Tensor, "B C H W"]:
    """Any prediction as epsilon: eps = sigma x_t + alpha v = (x_t - alpha x_0) / sigma."""
    check_prediction_type(prediction_type)
    if prediction_type == "epsilon":
        return prediction
    alpha, sigma = schedule.alpha(t, x_t), schedule.sigma(t, x_t)
    if prediction_type == "v_prediction":
        return sigma * x_t + alpha * prediction
    return (x_t - alpha * prediction) / sigma


def from_epsilon(
    schedule: NoiseSchedule,
    epsilon: Float[Tensor, "B C H W"],
    x_t: Float[Tensor, "B C H W"],
    t: Int[Tensor, " B"],
    prediction_type: str,
) -> Float[Tensor, "B C H W"]:
    """The inverse of ``to_epsilon``: v = (eps - sigma x_t)/alpha, x_0 = (x_t - sigma eps)/alpha.

    Both divide by alpha_t: an error of epsilon grows by 1 / alpha_t (15 at t = 999 of Stable
    Diffusion's schedule). Pure noise (alpha_t = 0) leaves them undetermined; the result is finite.
    """
    check_prediction_type(prediction_type)
    if prediction_type == "epsilon":
        return epsilon
    alpha, sigma = schedule.divisor(t, x_t), schedule.sigma(t, x_t)
    if prediction_type == "v_prediction":
        return (epsilon - sigma * x_t) / alpha
    return (x_t - sigma * epsilon) / alpha


def to_x0(
    schedule: NoiseSchedule,
    prediction: Float[Tensor, "B C H W"],
    x_t: Float[Tensor, "B C H W"],
    t: Int[Tensor, " B"],
    prediction_type: str,
) -> Float[Tensor, "B C H W"]:
    """The x_0 that a prediction implies: alpha x_t - sigma v = (x_t - sigma eps)/alpha."""
    check_prediction_type(prediction_type)
    if prediction_type == "v_prediction":
        # Directly, not through epsilon: no division by a small alpha.
        return schedule.alpha(t, x_t) * x_t - schedule.sigma(t, x_t) * prediction
    epsilon = to_epsilon(schedule, prediction, x_t, t, prediction_type)
    return from_epsilon(schedule, epsilon, x_t, t, "sample")
