"""The contract of critics, and their registry."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.schedule import NoiseSchedule, Times
from threestudio_asd.registry import Registry
from threestudio_asd.teachers.base import Teacher
from threestudio_asd.teachers.condition import Condition


@runtime_checkable
class Critic(Protocol):
    """A trainable score of the renders, a ``torch.nn.Module``; its parameters are what a guidance
    trains.

    Attributes:
        schedule: Its noise schedule, with the teacher's levels.
        prediction_type: What ``predict`` states.
    """

    schedule: NoiseSchedule
    prediction_type: str

    def predict(
        self, x_t: Float[Tensor, "B C h w"], t: Times, condition: Condition
    ) -> Float[Tensor, "B C h w"]:
        """The prediction in the critic's own space, differentiable in its parameters.

        Args:
            condition: The prompt without view words; its camera is absent where it is hidden.
        """

    def draw_camera_dropout(self) -> bool:
        """Whether this training step is to hide the camera; drawn anew at each call."""


#: Builds a critic from a guidance's config, for a teacher.
CriticBuilder = Callable[[Any, Teacher], Critic]
CRITICS: Registry[CriticBuilder] = Registry("critic_type")


def register_critic(name: str) -> Callable[[CriticBuilder], CriticBuilder]:
    """Decorator: register ``(cfg, teacher) -> Critic`` under ``name``; ``cfg`` is the config of the
    guidance that asks, its ``critic`` the options that are the builder's own."""

    def register(build: CriticBuilder) -> CriticBuilder:
        CRITICS.add(name, build)
        return build

    return register
