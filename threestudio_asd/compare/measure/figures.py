"""From a cell's outcome to its figures, and the same figures of the truth."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import trimesh
from torch import Tensor

from threestudio_asd.compare.measure import metrics
from threestudio_asd.compare.measure.generators import GENERATORS
from threestudio_asd.compare.measure.measures import MEASURES
from threestudio_asd.compare.measure.outcome import Outcome
from threestudio_asd.compare.measure.reference import truth_mesh
from threestudio_asd.tiny.evaluation import parse_prompt, silhouette_iou
from threestudio_asd.tiny.judge import Judge, load_judge
from threestudio_asd.tiny.turns import facing

# The critic's mean squared error for noise of variance 1, above which it has lost its task:
# ten times that of a critic that always says 0.
DIVERGED_ERROR = 10.0

Figures = dict[str, Any]


@cache
def _judge() -> Judge:
    return load_judge()


def of_images(images: Tensor, prompt: str) -> Figures:
    """Per image (lists): the judge's opinion, saturation, sharpness, and the judge's features."""
    scores = metrics.judge_scores(_judge(), images, *parse_prompt(prompt))
    scores |= {"saturation": metrics.saturation(images), "sharpness": metrics.sharpness(images)}
    with torch.no_grad():
        scores["features"] = _judge().features(images)
    return {name: _rounded(values) for name, values in scores.items()}


def truth(prompt: str, generator: str, folder: Path) -> Tensor:
    """The reference pictures of a prompt, as its generator's row says."""
    return GENERATORS[generator].truth(*parse_prompt(prompt), folder)


def figures(outcome: Outcome, prompt: str) -> Figures:
    """Everything that is measured of one cell: per-image lists and numbers."""
    finite = torch.isfinite(outcome.images).flatten(1).all(1)
    images = torch.nan_to_num(outcome.images, nan=0.5)
    halfway = torch.nan_to_num(outcome.halfway, nan=0.5)
    found = of_images(images, prompt)
    found["drift"] = _rounded(metrics.drift(halfway, images))
    found["seconds"] = round(outcome.seconds, 2)
    for name in ("unet_evaluations", "unet_evaluations_in_all", "unet_evaluations_with_gradient"):
        found[name] = getattr(outcome, name)
    found["peak_memory_mb"] = outcome.peak_memory_mb and round(outcome.peak_memory_mb)
    found["nonfinite_steps"] = outcome.nonfinite_steps
    found["critic_error"] = outcome.critic_error
    error = outcome.critic_error or 0.0
    sound = bool(finite.all()) and outcome.nonfinite_steps == 0 and error < DIVERGED_ERROR
    found["diverged"] = not sound
    if outcome.opacity is not None and outcome.mesh is not None:
        found |= _shape(outcome, *parse_prompt(prompt))
    own = {name: row.compute for name, row in MEASURES.items() if row.compute is not None}
    return found | {name: compute(outcome, prompt) for name, compute in own.items()}


def _shape(outcome: Outcome, object_name: str, color_name: str) -> Figures:
    """Silhouettes, surface and body at the rotation about z at which the silhouettes agree best;
    where the front is."""
    masks = outcome.opacity[:, 0] > 0.5
    overlap, rotation = silhouette_iou(masks, object_name)
    faces = facing(outcome.images, masks, object_name, color_name)
    return {
        **{"silhouette_iou": overlap, "rotation": rotation},
        **of_mesh(outcome.mesh, object_name, rotation),
        "azimuth_error": faces.azimuth_error,
        "janus": None if faces.janus is None else float(faces.janus),
    }


def of_mesh(mesh: trimesh.Trimesh, object_name: str, rotation: int) -> dict[str, float]:
    """Surface and volume against the truth, for a result of the given ``rotation`` (degrees)."""
    # A result that looks at azimuth a as the truth does at a + r is the truth turned by -r.
    truth = metrics.rotated(truth_mesh(object_name), -float(rotation))
    return {
        "surface_fscore": metrics.surface_fscore(mesh, truth),
        "volume_iou": metrics.volume_iou(mesh, truth),
    }


def _rounded(values: Tensor) -> list:
    return torch.round(values.double(), decimals=5).tolist()
