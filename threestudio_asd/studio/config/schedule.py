"""Scalars that change during training, as configs write them."""

from collections.abc import Sequence
from typing import Any

from omegaconf import ListConfig

from threestudio_asd.errors import UserError

_HELP = (
    "a number, [start_step, start, end, end_step], [start, end, end_step] or"
    " [step, value, value, step, value, step, ...]"
)


def is_schedule(value: Any) -> bool:
    """Whether ``value`` is a list that :func:`C` understands."""
    if not isinstance(value, list | tuple | ListConfig):
        return False
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    return numbers and (len(value) in (3, 4) or (len(value) >= 6 and len(value) % 2 == 0))


def C(value: Any, epoch: int, global_step: int, interpolation: str = "linear") -> int | float:
    """Value of the scheduled scalar ``value`` now.

    ``[start_step, start, end, end_step]`` is ``start`` until ``start_step``, ``end`` from
    ``end_step`` on and interpolated in between; three items leave out a ``start_step`` of 0; each
    further pair ``value, step`` continues with another segment. An integer end step counts
    training steps, a float one epochs (threestudio's convention).

    Args:
        interpolation: ``"linear"`` or ``"exp"`` (linear in the logarithm).

    Raises:
        UserError: ``value`` is neither a number nor a schedule.
    """
    if isinstance(value, int | float):
        return value
    if not is_schedule(value):
        raise UserError(f"{value!r} is not a scheduled value: expected {_HELP}.")
    if interpolation not in ("linear", "exp"):
        raise UserError(f'interpolation "{interpolation}" is unknown: use "linear" or "exp".')
    start_step, start, end, end_step = _segment(list(value), global_step)
    now = global_step if isinstance(end_step, int) else epoch
    if end_step == start_step:  # a jump
        t = float(now >= end_step)
    else:
        t = min(max((now - start_step) / (end_step - start_step), 0.0), 1.0)
    if interpolation == "exp":
        return start ** (1 - t) * end**t
    return start + (end - start) * t


def C_max(value: Any) -> int | float:
    """Largest value that the scheduled scalar ``value`` takes at the ends of its segments."""
    if isinstance(value, int | float):
        return value
    if not is_schedule(value):
        raise UserError(f"{value!r} is not a scheduled value: expected {_HELP}.")
    items = [0, *value] if len(value) == 3 else list(value)
    return max(items[1], *items[2::2])


def _segment(items: Sequence[int | float], global_step: int) -> Sequence[int | float]:
    """The four items of the segment that ``global_step`` is in."""
    if len(items) == 3:
        items = [0, *items]
    last = 3  # index of the segment's end step
    while last + 2 < len(items) and global_step >= items[last]:
        last += 2
    if last == 3:
        return items[:4]
    start, start_step, end, end_step = items[last - 3 : last + 1]
    return start_step, start, end, end_step
