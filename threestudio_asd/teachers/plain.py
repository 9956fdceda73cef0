"""A teacher that is a function: of one's own network, or of a formula."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.prediction_types import check_prediction_type, to_epsilon
from threestudio_asd.distill.schedule import DiscreteSchedule, NoiseSchedule, Times
from threestudio_asd.teachers.base import Teacher
from threestudio_asd.teachers.condition import Condition


class PlainTeacher(Teacher):
    """``function(x_t, t, condition)`` as a teacher; pixels are its latents.

    Args:
        function: What the model states, in its own prediction type.
        latent_shape: (C, h, w), h = w; with C = 3 the latents are images in [0, 1].
        schedule: By default Stable Diffusion's.
        prediction_type: What ``function`` states.

    Raises:
        UserError: An unknown prediction type.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor, Condition], Tensor],
        latent_shape: tuple[int, int, int] = (3, 64, 64),
        schedule: NoiseSchedule | None = None,
        prediction_type: str = "epsilon",
    ) -> None:
        check_prediction_type(prediction_type)
        self.function, self.prediction_type = function, prediction_type
        self.schedule = schedule or DiscreteSchedule.scaled_linear()
        self.latent_shape, self.image_size = tuple(latent_shape), latent_shape[-1]

    def epsilon(
        self, x_t: Float[Tensor, "B C h w"], t: Times, condition: Condition
    ) -> Float[Tensor, "B C h w"]:
        """The function's statement as epsilon."""
        said = self.function(x_t, t, condition)
        return to_epsilon(self.schedule, said, x_t, t, self.prediction_type)

    def encode(self, images: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """The images themselves."""
        return images

    def decode(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """The latents themselves, clamped to [0, 1]."""
        return latents.clamp(0.0, 1.0)
