"""Which way a result faces, and whether it has more than one front: its eight views against the
truth's from all around.

Turns about the z axis are counted in degrees: a result of turn r looks at azimuth a as the truth
does at a + r.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threestudio_asd.tiny.render import (
    EVAL_DISTANCE,
    EVAL_FOVY,
    EVAL_GREY,
    FIXED_AZIMUTHS,
    FIXED_ELEVATION,
    render,
)

TURN_STEP = 5  # degrees between the turns that are tried
TURNS = 360 // TURN_STEP
# Mean absolute differences of colours, in [0, 1], over what either picture shows.
SAME = 0.001  # the truth and itself after a turn that changes nothing
UNLIKE = 0.012  # two true views of which one is no longer the other
SIDE = 20  # degrees to either side of an azimuth that count as the same side

_FIXED = torch.tensor(FIXED_AZIMUTHS) // TURN_STEP
_TURN = torch.arange(TURNS)

Images = Float[Tensor, "N 3 64 64"]
Masks = Bool[Tensor, "N 64 64"]


@dataclass(frozen=True)
class Facing:
    """Where the front of a result is.

    Args:
        azimuth_error: degrees between the asked front (azimuth 0) and the found one, in [0, 180];
            turns that leave the object as it is do not count. None for an object that looks the
            same from all around.
        janus: a view that should show another side is at least as near to the true front as to that
            side (a second face, a second handle; a blob that looks the same from everywhere has
            it, too). None where the true object has no other side that is unlike its front.
    """

    azimuth_error: float | None
    janus: bool | None


@cache
def views_around(object_name: str, color_name: str) -> tuple[Images, Masks]:
    """The true scene from azimuth 0, 5, ..., 355 at the evaluation camera, on grey 0.5."""
    azimuth = (_TURN * TURN_STEP).float()
    full = torch.ones_like(azimuth)
    images, coverage = render(
        object_name,
        color_name,
        azimuth,
        FIXED_ELEVATION * full,
        EVAL_DISTANCE * full,
        EVAL_FOVY * full,
        torch.full((TURNS, 3), EVAL_GREY),
    )
    return images, coverage[:, 0] > 0.5


def facing(images: Images, masks: Masks, object_name: str, color_name: str) -> Facing:
    """The facing of a result, from its fixed views on grey 0.5 and their silhouettes."""
    truth, truth_masks = views_around(object_name, color_name)
    own = _truth_apart(object_name, color_name)
    apart = _differences(images, masks, truth, truth_masks)
    turn = int(_at_turns(apart).argmin())
    changes_nothing = _at_turns(own[_FIXED]) <= SAME
    return Facing(_azimuth_error(turn, changes_nothing), _janus(apart, own, turn))


@cache
def _truth_apart(object_name: str, color_name: str) -> Float[Tensor, "T T"]:
    truth = views_around(object_name, color_name)
    return _differences(*truth, *truth)


def _azimuth_error(turn: int, changes_nothing: Bool[Tensor, " T"]) -> float | None:
    if bool(changes_nothing.all()):
        return None
    beyond = (turn - torch.nonzero(changes_nothing)) % TURNS
    return float(_either_way(beyond).min() * TURN_STEP)


def _janus(apart: Float[Tensor, "8 T"], own: Float[Tensor, "T T"], turn: int) -> bool | None:
    front = _either_way(_TURN) * TURN_STEP <= SIDE
    seen = (_FIXED + turn) % TURNS  # where the truth looks as the result should in each view
    other = own[seen][:, front].amin(1) > UNLIKE
    if not bool(other.any()):
        return None
    # Compared with the same view's distance from the side that it should show, for what is wrong
    # with a result from all around (its size, its edges, a tint) is in both.
    there = _either_way((_TURN - seen[:, None]) % TURNS) * TURN_STEP <= SIDE
    from_own = apart.masked_fill(~there, torch.inf).amin(1)
    return bool((apart[:, front].amin(1) <= from_own)[other].any())


def _either_way(steps: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """The shorter way round to 0, of steps in [0, TURNS)."""
    return torch.minimum(steps, TURNS - steps)


def _at_turns(apart: Float[Tensor, "8 T"]) -> Float[Tensor, " T"]:
    """Mean difference of the fixed views from the truth's, for each turn."""
    shown = (_FIXED[:, None] + _TURN) % TURNS
    return apart.gather(1, shown).mean(0)


def _differences(
    a: Float[Tensor, "N 3 64 64"],
    a_masks: Bool[Tensor, "N 64 64"],
    b: Float[Tensor, "M 3 64 64"],
    b_masks: Bool[Tensor, "M 64 64"],
) -> Float[Tensor, "N M"]:
    """Mean absolute differences of colours over the union of the silhouettes; 0 if it is empty."""
    rows = []
    for image, mask in zip(a, a_masks, strict=True):
        union = mask | b_masks
        apart = (image - b).abs().mean(1) * union
        rows.append(apart.flatten(1).sum(1) / union.flatten(1).sum(1).clamp(min=1))
    return torch.stack(rows)
