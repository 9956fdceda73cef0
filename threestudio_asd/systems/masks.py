"""Where an edit may change its original: a given mask, or one from the two prompts.

The second is DiffEdit's (Couairon et al. 2022, arXiv:2210.11427, step 1): where the teacher's
predictions with the two prompts differ, averaged over draws of noise at half of the schedule.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.systems.originals import read_originals
from threestudio_asd.teachers.base import Teacher

AUTO = "auto"
DRAWS = 10
STRENGTH = 0.5  # of the schedule
THRESHOLD = 0.5  # of the difference, from 0 at its least to 1 where it is clipped
CLIP = 0.9  # quantile


def mask_of(
    place: str | Path,
    teacher: Teacher,
    latents: Float[Tensor, "N C h w"],
    source: str,
    target: str,
) -> Float[Tensor, "N 1 h w"]:
    """1 where the originals' latents may change, 0 elsewhere.

    Args:
        place: A picture, white where it may change, for all originals; a folder with one for each;
            or ``auto``, for :func:`difference_mask` of the prompts.

    Raises:
        UserError: There is no such picture, or a mask lets nothing change.
    """
    if str(place) == AUTO:
        return prompts_mask(teacher, latents, source, target)
    pictures = read_originals(place, len(latents), teacher.image_size, "system.mask")
    mask = covering(pictures, latents.shape[-2:]).to(latents)
    if not bool(mask.flatten(1).any(dim=1).all()):
        raise UserError(f"The mask '{place}' is black: make it white where the edit is to be.")
    return mask


def covering(pictures: Float[Tensor, "N 3 H W"], size: tuple[int, int]) -> Tensor:
    """The cells (N, 1, *size) with any pixel that is nearer to white than to black, as 1."""
    white = (pictures.mean(dim=1, keepdim=True) > 0.5).float()
    return F.adaptive_max_pool2d(white, tuple(size))


@torch.no_grad()
def prompts_mask(
    teacher: Teacher, latents: Float[Tensor, "N C h w"], source: str, target: str
) -> Float[Tensor, "N 1 h w"]:
    """:func:`difference_mask` of ``teacher``; its noise is always the same."""
    n, device = len(latents), latents.device
    said = teacher.embed_text([source, target])
    teacher.release_text_encoder()
    t = teacher.schedule.between(0.0, STRENGTH).max_step
    times = torch.full((n,), t, device=device)
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros_like(latents)
    for _ in range(DRAWS):
        noise = torch.randn(latents.shape, generator=generator).to(device)
        x_t = teacher.schedule.add_noise(latents, noise, times)
        one, other = (teacher.epsilon(x_t, times, said[i : i + 1].repeat(n)) for i in (0, 1))
        total += (one - other).abs()
    return difference_mask(total / DRAWS)


def difference_mask(difference: Float[Tensor, "N C h w"]) -> Float[Tensor, "N 1 h w"]:
    """1 where a mean difference of predictions is large, and a cell around."""
    found = difference.mean(dim=1)
    low = found.flatten(1).amin(dim=1)[:, None, None]
    high = found.flatten(1).quantile(CLIP, dim=1)[:, None, None]
    large = (found - low) > THRESHOLD * (high - low)
    return F.max_pool2d(large.float()[:, None], 3, stride=1, padding=1)
