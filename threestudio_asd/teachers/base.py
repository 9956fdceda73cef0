"""What a frozen diffusion model must offer to be distilled.

Epsilon, v and x_0 networks meet one contract here: above it, every teacher speaks epsilon.
"""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.distill.schedule import NoiseSchedule


class Teacher(ABC):
    """A frozen, text-conditioned diffusion model on latents of one size.

    Not a ``torch.nn.Module``: a system that holds a teacher neither trains nor saves it.

    Attributes:
        schedule: Its noise schedule, on the teacher's device.
        prediction_type: What the wrapped network states natively (``"epsilon"``,
            ``"v_prediction"`` or ``"sample"``); ``epsilon`` converts it.
        image_size: Native side length in pixels, the size that ``encode`` expects.
        latent_shape: (C, h, w) of one latent.
    """

    schedule: NoiseSchedule
    prediction_type: str
    image_size: int
    latent_shape: tuple[int, int, int]

    @abstractmethod
    def epsilon(
        self,
        x_t: Float[Tensor, "B C h w"],
        t: Int[Tensor, " B"],
        condition: Float[Tensor, "B L D"],
    ) -> Float[Tensor, "B C h w"]:
        """The predicted noise, without guidance and without any critic.

        Args:
            x_t: alpha_t x_0 + sigma_t eps.
            t: Timesteps in [0, T).
            condition: Rows of ``embed_text``; that of ``""`` is the unconditional one.
        """

    @abstractmethod
    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Latents of images in [0, 1] with H = W = ``image_size``; differentiable."""

    @abstractmethod
    def decode(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1] of latents."""

    @abstractmethod
    def embed_text(self, prompts: list[str]) -> Float[Tensor, "N L D"]:
        """One embedding for each prompt; ``""`` is the unconditional prompt."""
