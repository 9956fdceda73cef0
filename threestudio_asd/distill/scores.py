"""What the networks said about one noisy batch: the input of every term of every method."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.errors import UserError


@dataclass(frozen=True, eq=False)
class Scores:
    """Predictions at x_t, all in epsilon space, all without gradient for the generator's update.

    Args:
        x_t: The noisy latents, alpha_t x_0 + sigma_t noise.
        t: Timesteps.
        noise: The eps that was drawn.
        null: e_null, the teacher without a prompt.
        cond: e_y, the teacher with the (view-dependent) prompt.
        critic: e_phi, where the method has a critic.
        negatives: Perp-neg's e_k, the teacher with each of K negative prompts. (threestudio's
            negative embeddings are item-major: row b K + k belongs to item b.)
        negative_weights: Perp-neg's w_k, with threestudio's sign: negative repels.

    Raises:
        UserError: Only one of ``negatives`` and ``negative_weights`` was given.
    """

    x_t: Float[Tensor, "B C H W"]
    t: Int[Tensor, " B"]
    noise: Float[Tensor, "B C H W"]
    null: Float[Tensor, "B C H W"]
    cond: Float[Tensor, "B C H W"]
    critic: Float[Tensor, "B C H W"] | None = None
    negatives: Float[Tensor, "B K C H W"] | None = None
    negative_weights: Float[Tensor, "B K"] | None = None

    def __post_init__(self) -> None:
        if (self.negatives is None) != (self.negative_weights is None):
            raise UserError(
                "Perp-neg needs both negatives and negative_weights; pass both or none."
            )
