"""Generators, a row each: their truth, and what counts as one result."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from threestudio_asd.compare.measure.reference import truth_images
from threestudio_asd.tiny.render import fixed_views


@dataclass(frozen=True)
class Generator:
    """A row.

    Args:
        truth: ``(object, colour, cache folder) ->`` the reference pictures (N, 3, 64, 64).
        views_are_one: Whether a cell's pictures are views of one result, or results of their own.
    """

    truth: Callable[[str, str, Path], Tensor]
    views_are_one: bool


GENERATORS = {
    # 500 renders from the training cameras.
    "2d": Generator(lambda name, color, folder: truth_images(name, color, folder), False),
    # The eight fixed views, in which results are seen from the same cameras on the same grey.
    "nerf": Generator(lambda name, color, folder: fixed_views(name, color)[0], True),
}
