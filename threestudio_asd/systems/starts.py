"""Pictures that particles start as: those of a one-step generator."""

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.one_step import OneStepGenerator, read_note


@torch.no_grad()
def one_step_pictures(
    folder: str, prompt: str, n: int, latents: StableDiffusionTeacher | None
) -> Float[Tensor, "N C H W"]:
    """``n`` pictures of ``prompt`` by the generator in ``folder``, of noise from torch's own
    generator: in [0, 1], or as latents of the teacher ``latents``.

    Raises:
        UserError: The folder holds no generator, or one with another autoencoder than the teacher.
    """
    note = read_note(folder)
    model = StableDiffusionTeacher.from_pretrained(
        folder, device="cpu" if latents is None else latents.schedule.device
    )
    if latents is not None and not model.same_latents_as(latents):
        raise UserError(
            f"The generator system.init_from={folder} has another autoencoder than the teacher "
            f"{latents.folder}: choose a generator that was trained from it, or "
            "system.parametrization=pixels."
        )
    generator = OneStepGenerator.of(model.net, note.init_timestep)
    noise = torch.randn(n, *generator.latent_shape).to(model.schedule.device)
    text = model.embed_text([prompt] * n).tokens
    found = generator.generate(noise, text)
    return model.decode(found) if latents is None else found
