"""Arrays to pictures: 8-bit RGB images, colour maps and grids."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from threestudio_asd.errors import UserError

_SPECTRAL = "9e0142 d53e4f f46d43 fdae61 fee08b ffffbf e6f598 abdda4 66c2a5 3288bd 5e4fa2"
_MAGMA = "000004 1c1044 4f127b 812581 b5367a e55064 fb8761 fec287 fcfdbf"
_JET = "000080 0000ff 0080ff 00ffff 80ff80 ffff00 ff8000 ff0000 800000"


def _anchors(text: str) -> np.ndarray:
    return np.array([list(bytes.fromhex(color)) for color in text.split()], dtype=float)


# RGB colours at equal distances of the value range [0, 1].
COLOR_MAPS = {"jet": _anchors(_JET), "magma": _anchors(_MAGMA), "spectral": _anchors(_SPECTRAL)}


def rgb_image(
    image: np.ndarray, data_format: str = "HWC", data_range: Any = (0, 1), rgba: bool = False
) -> np.ndarray:
    """(H, W, C) or (C, H, W) values in ``data_range`` to a uint8 (H, W, 3 or 4) image.

    Further channels go to the right, in groups of 3 (4 with ``rgba``); the last group is filled
    with zeros. uint8 input is taken as it is.
    """
    image = _channels_last(image, data_format)
    if image.dtype != np.uint8:
        image = (255 * _normalize(image, data_range)).astype(np.uint8)
    width = 4 if rgba else 3
    missing = -image.shape[-1] % width
    image = np.pad(image, ((0, 0), (0, 0), (0, missing)))
    return np.concatenate(np.split(image, image.shape[-1] // width, axis=-1), axis=1)


def uv_image(
    image: np.ndarray,
    data_format: str = "HWC",
    data_range: Any = (0, 1),
    cmap: str = "checkerboard",
) -> np.ndarray:
    """Texture coordinates (H, W, 2) as a 64 x 64 checkerboard or as red and green; uint8."""
    uv = _normalize(_channels_last(image, data_format), data_range)
    if cmap == "color":
        return (255 * np.dstack([uv[..., 0], uv[..., 1], np.zeros(uv.shape[:2])])).astype(np.uint8)
    if cmap != "checkerboard":
        raise UserError(f'uv images know the cmap "checkerboard" or "color", not "{cmap}".')
    even = (uv * 64).astype(int)[..., :2].sum(-1) % 2 == 0
    return np.where(even[..., None], (255, 0, 255), (255, 255, 255)).astype(np.uint8)


def grayscale_image(
    image: np.ndarray, data_range: Any = None, cmap: str | None = "jet"
) -> np.ndarray:
    """Values (H, W) to a uint8 (H, W, 3) image, in a colour map or (``cmap=None``) grey.

    Args:
        data_range: the values for 0 and 1; None takes the image's own smallest and largest.
    """
    image = np.nan_to_num(image)
    if data_range is None:
        data_range = (image.min(), image.max())
    value = _normalize(image, data_range)
    if cmap is None:
        return np.repeat((255 * value).astype(np.uint8)[..., None], 3, axis=-1)
    if cmap not in COLOR_MAPS:
        raise UserError(f'unknown cmap "{cmap}": use {", ".join(COLOR_MAPS)} or None (grey).')
    colors = COLOR_MAPS[cmap]
    at = np.linspace(0, 1, len(colors))
    return np.stack([np.interp(value, at, channel) for channel in colors.T], -1).astype(np.uint8)


_KINDS = {"rgb": rgb_image, "uv": uv_image, "grayscale": grayscale_image}


def image_grid(images: Sequence[Any], align: Any = "max") -> np.ndarray:
    """A row of pictures, or rows of pictures, as one uint8 (H, W, 3) image.

    Args:
        images: ``{"type": "rgb" | "uv" | "grayscale", "img": array, "kwargs": {...}}`` or lists
            of them; ``kwargs`` go to the function of that type.
        align: common height and width: "max", "min", an int, or (height, width).
    """
    if isinstance(images[0], list | tuple):
        return np.concatenate([image_grid(row, align) for row in images], axis=0)
    pictures = [_KINDS[i["type"]](i["img"], **i.get("kwargs", {})) for i in images]
    height, width = _grid_size(pictures, align)
    return np.concatenate([resize(picture, height, width) for picture in pictures], axis=1)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize of a uint8 image."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def write_texts(image: np.ndarray, texts: Sequence[Any]) -> np.ndarray:
    """The texts below one another on the image, black with a white rim."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for row, text in enumerate(texts):
        at = (2, picture.size[1] * row // len(texts) + 1)
        draw.text(at, str(text), fill="black", stroke_width=1, stroke_fill="white")
    return np.asarray(picture)


def _channels_last(image: np.ndarray, data_format: str) -> np.ndarray:
    if data_format not in ("HWC", "CHW"):
        raise UserError(f'data_format is "HWC" or "CHW", not "{data_format}".')
    return image if data_format == "HWC" else image.transpose(1, 2, 0)


def _normalize(image: np.ndarray, data_range: Any) -> np.ndarray:
    low, high = (float(bound) for bound in data_range)
    if high <= low:  # a constant image
        return np.zeros(image.shape)
    return (image.astype(float).clip(low, high) - low) / (high - low)


def _grid_size(pictures: Sequence[np.ndarray], align: Any) -> tuple[int, int]:
    if align in ("max", "min"):
        choose = max if align == "max" else min
        return choose(p.shape[0] for p in pictures), choose(p.shape[1] for p in pictures)
    if isinstance(align, int):
        return align, align
    if isinstance(align, tuple) and len(align) == 2:
        return align
    raise UserError(f'align is "max", "min", an int or (height, width), not {align!r}.')
