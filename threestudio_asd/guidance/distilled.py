"""What one step of a guidance found, and how it tells a system."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.gradient import reparametrised_loss
from threestudio_asd.distill.scores import Scores
from threestudio_asd.distill.timesteps import TimestepRange


@dataclass(frozen=True, eq=False)
class Distilled:
    """One step before its losses are named and weighted.

    Args:
        latents: x_0 with its gradient to the renders.
        grad: w(t) (T - S), clipped.
        critic_terms: The critic's losses by name; empty without a critic.
        timesteps: Between which t was drawn.
    """

    latents: Float[Tensor, "B C h w"]
    scores: Scores
    grad: Float[Tensor, "B C h w"]
    critic_terms: dict[str, Tensor]
    timesteps: TimestepRange

    def losses(self, name: str) -> dict[str, Any]:
        """The generator's loss as ``name``, the critic's as ``loss_lora``, and scalars to log."""
        critic = {"loss_lora": sum(self.critic_terms.values())} if self.critic_terms else {}
        return {
            name: reparametrised_loss(self.latents, self.grad),
            **critic,
            "grad_norm": self.grad.norm(),
            "min_step": self.timesteps.min_step,
            "max_step": self.timesteps.max_step,
        }
