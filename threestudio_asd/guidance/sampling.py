"""Samples of the teacher from a step's noisy latents: threestudio's pictures of a guidance."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.guidance import classifier_free_guidance
from threestudio_asd.distill.noising import NoisyBatch
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.query import Query, ask
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher

_STEPS = 50


@torch.no_grad()
def samples(
    teacher: StableDiffusionTeacher,
    said: Predictions,
    text: Conditions,
    scale: float,
    shown: slice,
) -> dict[str, Any]:
    """Pictures of the items ``shown``, by DDIM with eta = 1 (Song et al. 2020, arXiv:2010.02502).

    ``scale`` guides the teacher. Images are (n, H, W, 3) in [0, 1]: ``imgs_noisy`` x_t;
    ``imgs_1step`` after one of 50 steps; ``imgs_1orig`` the x_0 that e^s implies; ``imgs_final``
    after the remaining steps. ``bs`` is n, ``noise_levels`` the t / T at which the sampler begins,
    its nearest timestep that is no larger than t.
    """
    from diffusers import DDIMScheduler

    # Our teachers state epsilon, whatever their networks do.
    epsilon = {"subfolder": "scheduler", "prediction_type": "epsilon"}
    scheduler = DDIMScheduler.from_pretrained(teacher.folder, **epsilon)
    scheduler.set_timesteps(_STEPS)
    prediction = classifier_free_guidance(said["null"], said["cond"], scale)
    levels, rows = [], []
    for b in range(len(said.t))[shown]:
        item = slice(b, b + 1)
        larger = int((scheduler.timesteps > said.t[b].item()).sum())
        timesteps = scheduler.timesteps[min(larger, _STEPS - 1) :]
        levels.append(timesteps[0].item() / scheduler.config.num_train_timesteps)
        step = scheduler.step(prediction[item], timesteps[0], said.x_t[item], eta=1.0)
        final = step.prev_sample
        for t in timesteps[1:]:
            epsilon = _guided(teacher, final, t, text.rows(item), scale)
            final = scheduler.step(epsilon, t, final, eta=1.0).prev_sample
        rows.append((said.x_t[item], step.prev_sample, step.pred_original_sample, final))
    latents = zip(("noisy", "1step", "1orig", "final"), zip(*rows, strict=True), strict=True)
    images = {
        f"imgs_{name}": teacher.decode(torch.cat(column)).permute(0, 2, 3, 1)
        for name, column in latents
    }
    return {"bs": len(levels), "noise_levels": levels, **images}


def _guided(
    teacher: StableDiffusionTeacher, x_t: Tensor, t: Tensor, text: Conditions, scale: float
) -> Float[Tensor, "1 C h w"]:
    """e^s of one item."""
    t = t.to(x_t.device).view(1)
    noisy = NoisyBatch(x_t, x_t, t, x_t)  # of which x_t and t alone are asked about
    (answer,) = ask(teacher, [Query(noisy, text, frozenset({"null", "cond"}))])
    said = answer.predictions(("null", "cond"))
    return classifier_free_guidance(said["null"], said["cond"], scale)
