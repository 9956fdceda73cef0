"""The forward process, from clean latents to noise, and which of its levels a step draws.

    x_t = alpha_t x_0 + sigma_t eps

A schedule says alpha and sigma, and what t counts: ``DiscreteSchedule`` the levels of a diffusion
model, ``FlowSchedule`` the time of a rectified flow.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.distill.timesteps import TimestepRange, check_fractions
from threestudio_asd.errors import UserError

#: In place of 0 where it is divided by alpha^2: the value that diffusers' Euler scheduler takes.
LEAST_SIGNAL = 2.0**-24
LEAST_ALPHA = LEAST_SIGNAL**0.5

Times = Float[Tensor, " B"] | Int[Tensor, " B"]


class NoiseSchedule(ABC):
    """A forward process, as far as a method needs to know it.

    ``signal`` and ``noise`` are the squares of alpha and sigma.
    """

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @abstractmethod
    def to(self, device: torch.device | str) -> "NoiseSchedule":
        """The same schedule on another device."""

    @abstractmethod
    def signal(self, t: Times) -> Float[Tensor, "B 1 1 1"]:
        """alpha_t^2, ready to broadcast over (B, C, H, W)."""

    @abstractmethod
    def noise(self, t: Times) -> Float[Tensor, "B 1 1 1"]:
        """sigma_t^2."""

    @abstractmethod
    def between(self, low: float, high: float) -> TimestepRange:
        """The times from ``low`` to ``high``, fractions in [0, 1] of the way to the noise; those at
        which x_t holds no signal are left out."""

    @abstractmethod
    def same_as(self, other: "NoiseSchedule") -> bool:
        """Whether both have the same levels at the same times."""

    def alpha(self, t: Times, like: Tensor) -> Float[Tensor, "B 1 1 1"]:
        """alpha_t with the dtype and device of ``like``."""
        return self.signal(t).sqrt().to(like)

    def sigma(self, t: Times, like: Tensor) -> Float[Tensor, "B 1 1 1"]:
        """sigma_t with the dtype and device of ``like``."""
        return self.noise(t).sqrt().to(like)

    def add_noise(
        self, x0: Float[Tensor, "B C H W"], noise: Float[Tensor, "B C H W"], t: Times
    ) -> Float[Tensor, "B C H W"]:
        """x_t = alpha_t x_0 + sigma_t eps."""
        return self.alpha(t, x0) * x0 + self.sigma(t, x0) * noise


@dataclass(frozen=True, eq=False)
class DiscreteSchedule(NoiseSchedule):
    """T levels of a variance-preserving process: alpha_t^2 = abar_t, sigma_t^2 = 1 - abar_t.

    (Ho et al. 2020, arXiv:2006.11239, eq. 4.) t is an integer in [0, T). With zero terminal SNR
    (Lin et al. 2023, arXiv:2305.08891) the last level is pure noise: abar is 0 there, x_t says
    nothing about x_0 and an epsilon nothing about x_0 or v. Such a level is never drawn; what
    divides by its alpha is finite all the same. A time before 0, at which an inversion may ask a
    network, has the level of 0.

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
    ) -> "DiscreteSchedule":
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

    @property
    def device(self) -> torch.device:
        return self.alphas_cumprod.device

    def to(self, device: torch.device | str) -> "DiscreteSchedule":
        return DiscreteSchedule(self.alphas_cumprod.to(device))

    def signal(self, t: Times) -> Float[Tensor, "B 1 1 1"]:
        return self.alphas_cumprod.to(t.device)[t.clamp_min(0)].view(-1, 1, 1, 1)

    def noise(self, t: Times) -> Float[Tensor, "B 1 1 1"]:
        return 1.0 - self.signal(t)

    def between(self, low: float, high: float) -> TimestepRange:
        steps = TimestepRange.from_percent(self.num_timesteps, low, high)
        return steps.up_to(self.last_step)

    def same_as(self, other: NoiseSchedule) -> bool:
        if not isinstance(other, DiscreteSchedule):
            return False
        ours, theirs = self.alphas_cumprod, other.alphas_cumprod
        return ours.shape == theirs.shape and torch.allclose(ours, theirs.to(ours))


@dataclass(frozen=True, eq=False)
class FlowSchedule(NoiseSchedule):
    """A straight line from data to noise: alpha_t = 1 - t, sigma_t = t, t real in [0, 1].

    (Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747, with the noise at 1 as
    in Stable Diffusion 3.) Not variance-preserving; t = 1 is pure noise.

    Args:
        scale: What a network's t is multiplied by: 1, or 1000 where it counts as a diffusion
            model's does.
    """

    scale: float = 1.0
    on: str | torch.device = "cpu"

    @property
    def device(self) -> torch.device:
        return torch.device(self.on)

    def to(self, device: torch.device | str) -> "FlowSchedule":
        return FlowSchedule(self.scale, device)

    def signal(self, t: Times) -> Float[Tensor, "B 1 1 1"]:
        return (1.0 - t / self.scale).square().view(-1, 1, 1, 1)

    def noise(self, t: Times) -> Float[Tensor, "B 1 1 1"]:
        return (t / self.scale).square().view(-1, 1, 1, 1)

    def between(self, low: float, high: float) -> TimestepRange:
        check_fractions(low, high)
        times = TimestepRange(float(low * self.scale), float(high * self.scale))
        return times.up_to(self.scale * (1.0 - LEAST_ALPHA))  # where alpha is LEAST_ALPHA

    def same_as(self, other: NoiseSchedule) -> bool:
        return isinstance(other, FlowSchedule) and other.scale == self.scale


def positive(signal: Tensor) -> Tensor:
    """``signal`` with ``LEAST_SIGNAL`` in place of 0."""
    return signal.where(signal > 0, LEAST_SIGNAL)
