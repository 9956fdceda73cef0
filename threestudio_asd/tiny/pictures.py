"""Pictures of the whole world on one sheet."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from threestudio_asd.tiny.render import EVAL_GREY, EVAL_SIZE
from threestudio_asd.tiny.scenes import COLORS, OBJECTS


def scenes_grid(images: Mapping[tuple[str, str], Float[Tensor, "3 64 64"]]) -> Image.Image:
    """Every object (rows) in every colour (columns), images in [0, 1] by (object, colour); grey
    where there is none."""
    blank = torch.full((3, EVAL_SIZE, EVAL_SIZE), EVAL_GREY)
    rows = [
        torch.cat([images.get((name, shade), blank) for shade in COLORS], dim=-1)
        for name in OBJECTS
    ]
    return as_picture(torch.cat(rows, dim=-2))


def as_picture(image: Float[Tensor, "3 H W"]) -> Image.Image:
    """RGB in [0, 1] as a picture."""
    pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype("uint8")
    return Image.fromarray(pixels)
