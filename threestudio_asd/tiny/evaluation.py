"""How good a result is, measured against the truth that the embedded world knows."""

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.tiny.judge import Judge, load_judge
from threestudio_asd.tiny.render import FIXED_AZIMUTHS, fixed_views
from threestudio_asd.tiny.scenes import COLORS, OBJECTS
from threestudio_asd.tiny.turns import TURN_STEP, facing, views_around


@dataclass(frozen=True)
class Verdict:
    """Measurements of one result over the eight fixed views.

    Args:
        right_views: views of which the judge names object and colour right, 0..8.
        probability: mean probability that the judge gives the right pair, in [0, 1].
        silhouette_iou: mean IoU with the true silhouettes at the best rotation about z, in [0, 1].
        rotation: that rotation, degrees.
        azimuth_error, janus: see :class:`~threestudio_asd.tiny.turns.Facing`.
        names: what the judge called each view.
        truth_right_views, truth_probability: the same judge on ground-truth renders, the ceiling.
        surface_fscore, volume_iou: of the mesh against the true surface and body at that rotation,
            in [0, 1]; None where no mesh was looked at.
    """

    right_views: int
    probability: float
    silhouette_iou: float
    rotation: int
    azimuth_error: float | None
    janus: bool | None
    names: list[tuple[str, str]]
    truth_right_views: int
    truth_probability: float
    surface_fscore: float | None = None
    volume_iou: float | None = None

    def as_dict(self) -> dict:
        return asdict(self)

    def told(self) -> str:
        """Two to four lines for people."""
        names = ", ".join(f"{shade} {name}" for name, shade in self.names)
        lines = [
            f"the judge names {self.right_views} of 8 views right ({names})",
            f"silhouette IoU with the true scene: {self.silhouette_iou:.2f}",
        ]
        if self.surface_fscore is not None:
            lines.append(
                f"its surface: F-score {self.surface_fscore:.2f}; its body: volume IoU "
                f"{self.volume_iou:.2f}"
            )
        if self.azimuth_error is not None:
            also = "; another side looks like the front (Janus)" if self.janus else ""
            lines.append(f"the front is {self.azimuth_error:.0f} degrees from azimuth 0{also}")
        return "\n".join(lines)


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
    return views_around(name, next(iter(COLORS)))[1]


def iou(a: Bool[Tensor, "*B H W"], b: Bool[Tensor, "*B H W"]) -> Float[Tensor, "*B"]:
    """Intersection over union of masks; 1 where both are empty."""
    union = (a | b).flatten(-2).sum(-1)
    shared = (a & b).flatten(-2).sum(-1)
    return torch.where(union > 0, shared / union.clamp(min=1), torch.ones_like(union).float())


def silhouette_iou(masks: Bool[Tensor, "8 64 64"], name: str) -> tuple[float, int]:
    """Mean IoU of the fixed views with the truth at the best rotation, and that rotation."""
    truth = true_silhouettes(name)
    views = torch.tensor(FIXED_AZIMUTHS) // TURN_STEP
    means = torch.stack(
        [iou(masks, truth[(views + shift) % len(truth)]).mean() for shift in range(len(truth))]
    )
    best = int(means.argmax())
    return float(means[best]), best * TURN_STEP


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
    masks = opacity[:, 0] > 0.5
    overlap, rotation = silhouette_iou(masks, object_name)
    faces = facing(images, masks, object_name, color_name)
    return Verdict(
        right_views=sum(named == wanted for named in names),
        probability=float(judge.probability(images, *wanted).mean()),
        silhouette_iou=overlap,
        rotation=rotation,
        azimuth_error=faces.azimuth_error,
        janus=faces.janus,
        names=names,
        truth_right_views=sum(named == wanted for named in judge.name(truth)),
        truth_probability=float(judge.probability(truth, *wanted).mean()),
    )
