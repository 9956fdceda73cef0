"""View directions: which prompt a camera sees (threestudio's rules)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

#: elevation, azimuth (degrees), camera distance -> whether the rule holds
Condition = Callable[[Tensor, Tensor, Tensor], Bool[Tensor, " B"]]


@dataclass(frozen=True)
class DirectionConfig:
    """A view direction: its name, what it makes of the two prompts, and where it holds."""

    name: str
    prompt: Callable[[str], str]
    negative_prompt: Callable[[str], str]
    condition: Condition


def shift_azimuth_deg(azimuth: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The same angle in [-180, 180) degrees."""
    return (azimuth + 180.0) % 360.0 - 180.0


def view_directions(
    front_threshold: float, back_threshold: float, overhead_threshold: float, name_first: bool
) -> list[DirectionConfig]:
    """Side, front, back and overhead; where several rules hold, the last one counts.

    Args:
        front_threshold: Front is |azimuth| < this; degrees.
        back_threshold: Back is |azimuth| > 180 - this.
        overhead_threshold: Overhead is elevation > this.
        name_first: "front view of a mug" rather than "a mug, front view".
    """

    def side(elevation, azimuth, distance):
        return torch.ones_like(elevation, dtype=torch.bool)

    def front(elevation, azimuth, distance):
        return shift_azimuth_deg(azimuth).abs() < front_threshold

    def back(elevation, azimuth, distance):
        return shift_azimuth_deg(azimuth).abs() > 180.0 - back_threshold

    def overhead(elevation, azimuth, distance):
        return elevation > overhead_threshold

    def worded(name: str) -> Callable[[str], str]:
        if name_first:
            view = "backside" if name == "back" else name
            return lambda prompt: f"{view} view of {prompt}"
        return lambda prompt: f"{prompt}, {name} view"

    rules = (side, front, back, overhead)
    return [
        DirectionConfig(rule.__name__, worded(rule.__name__), lambda prompt: prompt, rule)
        for rule in rules
    ]


def direction_index(
    directions: Sequence[DirectionConfig],
    elevation: Float[Tensor, " B"],
    azimuth: Float[Tensor, " B"],
    camera_distances: Float[Tensor, " B"],
) -> Int[Tensor, " B"]:
    """Which direction each camera has, as an index into ``directions``."""
    index = torch.zeros_like(elevation, dtype=torch.long)
    for i, direction in enumerate(directions):
        index[direction.condition(elevation, azimuth, camera_distances)] = i
    return index
