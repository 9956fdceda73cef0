"""Pictures and latents, many at a time: of a teacher in many steps, of a generator in a few."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from rich.progress import track
from torch import Tensor

from threestudio_asd import log
from threestudio_asd.distill.guidance import classifier_free_guidance
from threestudio_asd.distill.inversion import follow
from threestudio_asd.errors import UserError
from threestudio_asd.generators.data.cache import kept, model_state
from threestudio_asd.pretrained.resolve import STABLE_DIFFUSION
from threestudio_asd.scene.images import image_grid
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.one_step import OneStepGenerator

DDIM_STEPS = 25

T = TypeVar("T")


def followed(items: Sequence[T], what: str) -> Iterable[T]:
    """The items one by one, with a bar on the terminal."""
    return track(items, what, console=log.console())


def ddim_times(levels: int, steps: int) -> list[int]:
    """The levels of diffusers' DDIM as Stable Diffusion sets it (``leading``, ``steps_offset`` 1),
    down to the least noise there is, level 0.

    Raises:
        UserError: No step, or more than there are levels.
    """
    if not 1 <= steps < levels:
        raise UserError(f"{steps} DDIM steps: at least 1, and fewer than {levels}.")
    return [1 + levels // steps * i for i in reversed(range(steps))] + [0]


@torch.no_grad()
def ddim(
    teacher: StableDiffusionTeacher,
    noise: Float[Tensor, "B C h w"],
    condition: Condition,
    null: Condition,
    scale: float,
    steps: int = DDIM_STEPS,
) -> Float[Tensor, "B C h w"]:
    """Latents by DDIM (Song et al. 2020, arXiv:2010.02502, eta = 0) from standard normal ``noise``.

    Args:
        null: One row, that of no prompt; asked at other scales than 1.
    """

    def ask(x_t: Tensor, t: Tensor, items: Tensor) -> Tensor:
        cond = condition[items]
        if scale == 1.0:
            return teacher.epsilon(x_t, t, cond)
        both = Condition.concatenate([null.repeat(len(x_t)), cond])
        said = teacher.epsilon(x_t.repeat(2, 1, 1, 1), t.repeat(2), both)
        return classifier_free_guidance(*said.chunk(2), scale)

    times = ddim_times(teacher.schedule.num_timesteps, steps)
    return follow(teacher.schedule, noise, [times] * len(noise), ask)


def teacher_latents(
    teacher: StableDiffusionTeacher,
    captions: Sequence[str],
    scale: float,
    seed: int,
    steps: int = DDIM_STEPS,
    batch: int = 64,
) -> Float[Tensor, "N C h w"]:
    """Samples of the teacher for the captions, on the CPU; read back if they were drawn before."""

    def make() -> Tensor:
        noise = draw_noise(teacher.latent_shape, len(captions), seed)
        device, null = teacher.schedule.device, teacher.embed_text([""])
        found = []
        for ids in followed(_batches(len(captions), batch), f"teacher, scale {scale:g}"):
            condition = teacher.embed_text([captions[i] for i in ids])
            drawn = ddim(teacher, noise[ids].to(device), condition, null, scale, steps)
            found.append(drawn.cpu())
        return torch.cat(found)

    model = model_state(teacher, STABLE_DIFFUSION)
    return kept("samples", [model, list(captions), scale, seed, steps], make)


@torch.no_grad()
def generator_latents(
    generator: OneStepGenerator,
    teacher: StableDiffusionTeacher,
    captions: Sequence[str],
    steps: int,
    seed: int,
    batch: int = 64,
) -> Float[Tensor, "N C h w"]:
    """Samples of the generator for the captions, on the CPU, from the noise of
    :func:`teacher_latents`.

    Args:
        teacher: The model that embeds captions.
    """
    noise = draw_noise(generator.latent_shape, len(captions), seed)
    device = teacher.schedule.device
    later = torch.Generator().manual_seed(seed + 1)  # of the steps after the first
    found = []
    for ids in followed(_batches(len(captions), batch), f"{steps} step{'s' * (steps > 1)}"):
        text = teacher.embed_text([captions[i] for i in ids]).tokens
        found.append(generator.generate(noise[ids].to(device), text, steps, later).cpu())
    return torch.cat(found)


@torch.no_grad()
def decoded(
    teacher: StableDiffusionTeacher, latents: Float[Tensor, "N C h w"], batch: int = 64
) -> Float[Tensor, "N 3 H W"]:
    """Pictures in [0, 1], on the CPU."""
    device = teacher.schedule.device
    return torch.cat([teacher.decode(x.to(device)).cpu() for x in latents.split(batch)])


def sheet(images: Float[Tensor, "N 3 H W"], columns: int) -> Image.Image:
    """Pictures in [0, 1] in rows of ``columns``."""
    parts = [
        {"type": "rgb", "img": image, "kwargs": {"data_format": "CHW"}} for image in images.numpy()
    ]
    rows = [[parts[i] for i in ids] for ids in _batches(len(parts), columns)]
    return Image.fromarray(image_grid(rows))


def draw_noise(shape: tuple[int, int, int], count: int, seed: int) -> Float[Tensor, "N C h w"]:
    """Standard normal, on the CPU: the same for every device and in every batch."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def _batches(count: int, batch: int) -> list[list[int]]:
    return [list(range(i, min(i + batch, count))) for i in range(0, count, batch)]
