"""The contract of teachers, frozen diffusion models, and their registry.

Epsilon, v, x_0 and flow networks meet one contract here: above it, every teacher speaks epsilon.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.schedule import NoiseSchedule, Times
from threestudio_asd.errors import UserError
from threestudio_asd.registry import Registry
from threestudio_asd.teachers.condition import Condition

#: Of clean latents x_0 and times t: other clean latents.
Corrective = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class Teacher(Protocol):
    """A frozen, conditional diffusion or flow model on latents of one size.

    Not a ``torch.nn.Module``: a system that holds a teacher neither trains nor saves it.

    Attributes:
        schedule: Its noise schedule, on the teacher's device.
        image_size: Native side length in pixels, the size that ``encode`` expects.
        latent_shape: (C, h, w) of one latent.
        views_at_once: How many views of one scene it takes as a group that shares t; 1 if it knows
            single pictures. Batches must be multiples of it.
        knows_cameras: Whether it reads the camera (to world) of its conditions.
    """

    schedule: NoiseSchedule
    image_size: int
    latent_shape: tuple[int, int, int]
    views_at_once: int = 1
    knows_cameras: bool = False

    def epsilon(
        self, x_t: Float[Tensor, "B C h w"], t: Times, condition: Condition
    ) -> Float[Tensor, "B C h w"]:
        """The predicted noise, without guidance and without any critic.

        Args:
            x_t: alpha_t x_0 + sigma_t eps.
            t: Times of the schedule.
        """

    def embed_text(self, prompts: list[str]) -> Condition:
        """One row for each prompt; for methods with prompts of their own.

        Raises:
            UserError: The teacher has no text encoder.
        """
        raise UserError(
            "The method has prompts of its own, and this teacher embeds none; choose another "
            "method, or give the teacher an embed_text."
        )

    def release_text_encoder(self) -> None:
        """Let go of what ``embed_text`` loaded; it may be called again."""

    def corrective(self) -> Corrective:
        """b(x_0, t), a small network's guess of what this teacher, without a prompt, makes of the
        clean latents x_0, noised to t and denoised; for methods that read ``corrective``.

        Raises:
            UserError: The teacher has none.
        """
        raise UserError(
            "The method reads what a corrective network of the teacher says, and this teacher has "
            "none; choose another method, or give the teacher a corrective()."
        )

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Latents of images in [0, 1] with H = W = ``image_size``; differentiable."""

    def decode(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1] of latents."""


@dataclass(frozen=True)
class TeacherType:
    """A kind of teacher.

    Args:
        build: ``(cfg, device) -> Teacher``; ``cfg`` is the config of the guidance that asks, its
            ``teacher`` the options that are the builder's own.
        require: ``(cfg)``, asked before anything is written or read: raises UserError if what
            ``cfg`` names cannot be had.
    """

    build: Callable[[Any, torch.device], Teacher]
    require: Callable[[Any], None] = lambda cfg: None


TEACHERS: Registry[TeacherType] = Registry("teacher_type")


def register_teacher(
    name: str, require: Callable[[Any], None] = lambda cfg: None
) -> Callable[[Callable[..., Teacher]], Callable[..., Teacher]]:
    """Decorator: register ``(cfg, device) -> Teacher`` under ``name``; see :class:`TeacherType`."""

    def register(build: Callable[..., Teacher]) -> Callable[..., Teacher]:
        TEACHERS.add(name, TeacherType(build, require))
        return build

    return register
