"""Which timesteps a step draws."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.errors import UserError


@dataclass(frozen=True)
class TimestepRange:
    """t uniform over the integers ``min_step .. max_step``, both included (as in threestudio), or
    over the reals between them if the edges are floats.

    How the edges move during training is the host's business: build a new range when they do.

    Raises:
        UserError: The range is empty or starts below 0.
    """

    min_step: int | float
    max_step: int | float

    def __post_init__(self) -> None:
        if not 0 <= self.min_step <= self.max_step:
            raise UserError(
                f"Timesteps {self.min_step}..{self.max_step} are no range: "
                "min_step_percent must be at least 0 and at most max_step_percent."
            )

    @classmethod
    def from_percent(
        cls, num_timesteps: int, min_step_percent: float, max_step_percent: float
    ) -> "TimestepRange":
        """Edges as fractions of T in [0, 1], rounded down: (0.02, 0.98) of 1000 is 20..980.

        1.0 means the last timestep, T - 1: (0, 1) is the critic's whole range 0..T-1.

        Raises:
            UserError: A fraction above 1 (or an empty or negative range).
        """
        check_fractions(min_step_percent, max_step_percent)
        last = num_timesteps - 1
        return cls(
            min(int(num_timesteps * min_step_percent), last),
            min(int(num_timesteps * max_step_percent), last),
        )

    def up_to(self, last_step: int | float) -> "TimestepRange":
        """The same range without the timesteps after ``last_step``."""
        return TimestepRange(min(self.min_step, last_step), min(self.max_step, last_step))

    def sample(
        self,
        batch_size: int,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, " B"] | Float[Tensor, " B"]:
        """``batch_size`` independent timesteps."""
        shape, low, high = (batch_size,), self.min_step, self.max_step
        if isinstance(low, int) and isinstance(high, int):
            return torch.randint(low, high + 1, shape, device=device, generator=generator)
        return low + (high - low) * torch.rand(shape, device=device, generator=generator)


def check_fractions(min_step_percent: float, max_step_percent: float) -> None:
    """Raises UserError if a fraction of the schedule is above 1."""
    if max(min_step_percent, max_step_percent) > 1.0:
        raise UserError(
            "min_step_percent and max_step_percent are fractions in [0, 1]; "
            f"got {min_step_percent} and {max_step_percent}."
        )
