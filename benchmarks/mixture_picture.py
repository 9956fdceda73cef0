"""The picture of benchmarks/mixture.py: a panel for each row that walks like no other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SIDE, HEAD, GAP, COLUMNS, FINE = 210, 34, 8, 5, 2
WIDE, CORNER = 5.0, (-2.5, -1.9)  # of the plane that is shown
SHOWN = 12  # walks in a panel
INK, WALK, END, TARGET = (40, 40, 40), (150, 150, 150), (178, 24, 43), (67, 116, 180)


@dataclass(frozen=True, eq=False)
class Panel:
    """Where some points went, step by step, and what stands above."""

    title: str
    line: str
    path: Float[Tensor, "S N 2"]


def drawn(panel: Panel, means: Float[Tensor, "K 2"], std: float) -> Image.Image:
    """The prompt's density in blue, a few points' walks in grey, all ends in red."""
    size = SIDE * FINE
    image = Image.new("RGB", (size, size + HEAD * FINE), "white")
    image.paste(density(size, means, std), (0, HEAD * FINE))
    draw = ImageDraw.Draw(image)

    def at(point: Tensor) -> tuple[float, float]:
        across, up = ((point - torch.tensor(CORNER)) / WIDE).tolist()
        return across * size, HEAD * FINE + (1 - up) * size

    for k in range(SHOWN):
        draw.line([at(p) for p in panel.path[:, k]], fill=WALK, width=FINE)
    for end in panel.path[-1]:
        x, y = at(end)
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=END)
    draw.rectangle((0, 0, size, HEAD * FINE), fill="white")
    for text, height, points in ((panel.title, 0, 13), (panel.line, 17, 11)):
        font = ImageFont.load_default(points * FINE)
        draw.text((0, height * FINE), text, fill=INK, font=font)
    return image


def density(size: int, means: Float[Tensor, "K 2"], std: float) -> Image.Image:
    """Of Gaussians about ``means``, darker where there is more."""
    middle = WIDE * (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(middle.flip(0) + CORNER[1], middle + CORNER[0], indexing="ij")
    points = torch.stack([x, y], -1).double()
    p = sum((-(points - mean).square().sum(-1) / (2 * std**2)).exp() for mean in means)
    share = (0.75 * p + 0.04)[..., None]
    shade = 255 + share * (torch.tensor(TARGET) - 255)
    return Image.fromarray(shade.clamp(0, 255).byte().numpy())


def picture(panels: Sequence[Panel], means: Float[Tensor, "K 2"], std: float) -> Image.Image:
    """All panels, before Gaussians about ``means``."""
    rows = -(-len(panels) // COLUMNS)
    width, height = SIDE + GAP, SIDE + HEAD + GAP
    whole = Image.new("RGB", (COLUMNS * width * FINE, rows * height * FINE), "white")
    for k, part in enumerate(panels):
        whole.paste(
            drawn(part, means, std), (k % COLUMNS * width * FINE, k // COLUMNS * height * FINE)
        )
    small = whole.resize((COLUMNS * width, rows * height), Image.Resampling.LANCZOS)
    return small.quantize(160, dither=Image.Dither.NONE)
