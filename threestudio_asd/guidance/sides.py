"""How a critic is asked, and where: at the renders and, by a row that pairs them with originals, at
these.

All sides are one batch of the critic, side after side: one pass, one objective.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from threestudio_asd.distill.noising import NoisyBatch
from threestudio_asd.distill.prediction_types import converted
from threestudio_asd.distill.predictions import PREDICTIONS, beside
from threestudio_asd.distill.schedule import NoiseSchedule
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.teachers.condition import Condition


def places(sides: Sequence[str]) -> set[str]:
    """The noising's extras at which a critic of these ``sides`` is asked, besides x_t."""
    return {PREDICTIONS.get(side).at for side in sides} - {None}


def noisy_sides(noisy: NoisyBatch, sides: Sequence[str], schedule: NoiseSchedule) -> NoisyBatch:
    """The noisy batch of the critic's pass: that of each side after the other. All have the
    renders' t and noise."""
    if not places(sides):
        return noisy
    parts = [_at(noisy, PREDICTIONS.get(side).at, schedule) for side in sides]
    x0, x_t, t, noise = zip(*((p.x0, p.x_t, p.t, p.noise) for p in parts), strict=True)
    return NoisyBatch(torch.cat(x0), torch.cat(x_t), torch.cat(t), torch.cat(noise))


def _at(noisy: NoisyBatch, place: str | None, schedule: NoiseSchedule) -> NoisyBatch:
    if place is None:
        return noisy
    x_t = noisy.at(place)
    x0 = converted(schedule, noisy.noise, x_t, noisy.t, "epsilon", "sample")
    return replace(noisy, x0=x0, x_t=x_t)


def told(text: Conditions, sides: Sequence[str]) -> Condition:
    """What the critic is told on each side: its own prompt about renders, elsewhere that of the
    teacher's prediction which it is held against; the camera is the same."""
    parts = [_told(text, side) for side in sides]
    return parts[0] if len(parts) == 1 else Condition.concatenate(parts)


def _told(text: Conditions, side: str) -> Condition:
    what = PREDICTIONS.get(side)
    if what.at is None:
        return text.critic
    return replace(text[what.against], camera=text.critic.camera)


def said_beside(
    said: Mapping[str, Tensor], names: Sequence[str], sides: Sequence[str]
) -> dict[str, Tensor]:
    """The teacher's predictions ``names`` for a batch of :func:`noisy_sides`, detached."""
    parts = {n: [said[beside(n, side)].detach() for side in sides] for n in names}
    return {n: p[0] if len(p) == 1 else torch.cat(p) for n, p in parts.items()}


@contextmanager
def differentiable_in_inputs(critic: Any, wanted: bool) -> Iterator[None]:
    """In the block a pass of the critic has no gradient for its weights; for its inputs if
    ``wanted``."""
    trained = [p for p in critic.parameters() if p.requires_grad] if wanted else []
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.set_grad_enabled(wanted):
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
