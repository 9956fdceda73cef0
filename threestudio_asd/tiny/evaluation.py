"""How good a result is, measured against the truth that the embedded world knows."""

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threestudio_asd.errors import UserError

from .judge import Judge, load_judge
from .render import (
    EVAL_DISTANCE,
    EVAL_FOVY,
    FIXED_AZIMUTHS,
    FIXED_ELEVATION,
    fixed_views,
    render,
)
from .scenes import COLORS, OBJECTS

ROTATION_STEP = 5  # degrees between the rotations about z that are tried


@dataclass(frozen=True)
class Verdict:
    """Measurements of one result over the eight fixed views.

    Args:
        right_views: views of which the judge names object and colour right, 0..8.
        probability: mean probability that the judge gives the right pair, in [0, 1].
        silhouette_iou: mean IoU with the true silhouettes at the best rotation about z, in [0, 1].
        rotation: that rotation, degrees.
        names: what the judge called each view.
        truth_right_views, truth_probability: the same judge on ground-truth renders, the ceiling.
    """

    right_views: int
    probability: float
    silhouette_iou: float
    rotation: int
    names: list[tuple[str, str]]
    truth_right_views: int
    truth_probability: float

    def as_dict(self) -> dict:
        return asdict(self)

    def told(self) -> str:
        """Two lines for people."""
        names = ", ".join(f"{shade} {name}" for name, shade in self.names)
        return (
            f"the judge names {self.right_views} of 8 views right ({names})\n"
            f"silhouette IoU with the true scene: {self.silhouette_iou:.2f}"
        )


def parse_prompt(prompt: str) -> tuple[str, str]:
    """The (object, colour) that a prompt of this world names.

    Raises:
        UserError: The prompt does not hold exactly one object and one colour.
    """
    words = prompt.lower().replace(",", " ").split()
    objects = [w for w in words if w in OBJECTS]
    colors = [w for w in words if w in COLORS]
    if len(objects) != 1 or len(colors) != 1:
        raise UserError(
            f"The judge needs a prompt with one object and one colour; got '{prompt}'. "
            f"Objects: {', '.join(OBJECTS)}. Colours: {', '.join(COLORS)}."
        )
    return objects[0], colors[0]


def true_silhouettes(name: str) -> Bool[Tensor, "A 64 64"]:
    """Silhouettes of object ``name`` from azimuth 0, 5, ..., 355 at the evaluation camera."""
    azimuth = torch.arange(0, 360, ROTATION_STEP, dtype=torch.float32)
    full = torch.ones_like(azimuth)
    _, coverage = render(
        name,
        next(iter(COLORS)),
        azimuth,
        FIXED_ELEVATION * full,
        EVAL_DISTANCE * full,
        EVAL_FOVY * full,
        torch.zeros(len(azimuth), 3),
    )
    return coverage[:, 0] > 0.5


def iou(a: Bool[Tensor, "*B H W"], b: Bool[Tensor, "*B H W"]) -> Float[Tensor, "*B"]:
    """Intersection over union of masks; 1 where both are empty."""
    union = (a | b).flatten(-2).sum(-1)
    shared = (a & b).flatten(-2).sum(-1)
    return torch.where(union > 0, shared / union.clamp(min=1), torch.ones_like(union).float())


def silhouette_iou(masks: Bool[Tensor, "8 64 64"], name: str) -> tuple[float, int]:
    """Mean IoU of the fixed views with the truth at the best rotation, and that rotation."""
    truth = true_silhouettes(name)
    views = torch.tensor(FIXED_AZIMUTHS) // ROTATION_STEP
    means = torch.stack(
        [iou(masks, truth[(views + shift) % len(truth)]).mean() for shift in range(len(truth))]
    )
    best = int(means.argmax())
    return float(means[best]), best * ROTATION_STEP


def assess(
    images: Float[Tensor, "8 3 64 64"],
    opacity: Float[Tensor, "8 1 64 64"],
    object_name: str,
    color_name: str,
    judge: Judge | None = None,
) -> Verdict:
    """Measure renders in [0, 1] from the fixed views, on grey 0.5, and their opacity in [0, 1]."""
    judge = judge or load_judge()
    wanted = (object_name, color_name)
    truth, _ = fixed_views(object_name, color_name)
    names = judge.name(images)
    overlap, rotation = silhouette_iou(opacity[:, 0] > 0.5, object_name)
    return Verdict(
        right_views=sum(named == wanted for named in names),
        probability=float(judge.probability(images, *wanted).mean()),
        silhouette_iou=overlap,
        rotation=rotation,
        names=names,
        truth_right_views=sum(named == wanted for named in judge.name(truth)),
        truth_probability=float(judge.probability(truth, *wanted).mean()),
    )
