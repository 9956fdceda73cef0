"""What is measured of pictures of the embedded world's captions, with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.compare.measure import metrics
from threestudio_asd.compare.measure.reference import place
from threestudio_asd.compare.report.summary import Estimate
from threestudio_asd.tiny.dataset import COLOR_NAMES, OBJECT_NAMES, Renders, cached
from threestudio_asd.tiny.frechet import fid
from threestudio_asd.tiny.judge import Judge
from threestudio_asd.tiny.scenes import WORLD_VERSION, training_pairs
from threestudio_asd.tiny.train.measure import RENDER_SEED, features

RESAMPLES = 200
_SEED = 7
#: Name of a measure -> title and what it is of.
MEASURES = {
    "fid": ("FID", "Frechet distance to true renders, in the judge's features; low"),
    "kid": ("KID", "kernel distance, the same; unbiased, hence below 0 at times; low"),
    "right": ("judged right", "share named with the right object and colour; as true renders"),
    "diversity": (
        "diversity",
        "distance in the judge's features between pictures of one caption; as true renders",
    ),
    "sharpness": ("sharpness - truth's", "deviation of the Laplacian; below 0: smooth; 0"),
}


def held_renders(count: int, seed: int = RENDER_SEED) -> Renders:
    """``count`` renders of pairs that teachers have seen, from cameras that none has; kept."""
    name = f"held-{count}-{seed}-{WORLD_VERSION}.pt"
    return cached(place().folder() / name, count, seed, training_pairs(), 0.0)


def pairs_of(renders: Renders) -> list[tuple[str, str]]:
    """(object, colour) of each render."""
    columns = zip(renders.objects.tolist(), renders.colors.tolist(), strict=True)
    return [(OBJECT_NAMES[o], COLOR_NAMES[c]) for o, c in columns]


@dataclass(frozen=True, eq=False)
class Ruler:
    """Measures pictures against true renders.

    Args:
        judge: In whose features and words.
        truth: True renders, as images in [0, 1].
        resamples: Of the bootstrap.
    """

    judge: Judge
    truth: Float[Tensor, "T 3 64 64"]
    resamples: int = RESAMPLES

    @cached_property
    def _features(self) -> Float[Tensor, "T D"]:
        return features(self.judge, self.truth)

    @cached_property
    def _sharpness(self) -> float:
        return float(metrics.sharpness(self.truth).mean())

    def measure(
        self, images: Float[Tensor, "N 3 64 64"], captions: Sequence[str], pairs: Sequence
    ) -> dict[str, Estimate]:
        """``MEASURES`` of images in [0, 1], of the given captions and (object, colour) pairs.

        Intervals are of the pictures that happened to be drawn: 95 % of a bootstrap over them,
        moved so that its mean is the value: a resample repeats pictures, which by itself raises a
        Frechet distance.
        """
        found = features(self.judge, images)
        named = self.judge.name(images)
        right = torch.tensor([float(n == p) for n, p in zip(named, pairs, strict=True)])
        numbers = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
        which = torch.tensor([numbers[caption] for caption in captions])
        same = which[:, None] == which[None]
        w = self._weights(len(images))
        values = {
            "fid": torch.tensor([self._fid(found, row) for row in w]),
            "kid": metrics.kid(self._features, found, w),
            "right": _means(right, w),
            "diversity": metrics.diversity(found, w, same),
            "sharpness": _means(metrics.sharpness(images), w) - self._sharpness,
        }
        return {name: estimate(values[name]) for name in MEASURES}

    def _fid(self, found: Tensor, w: Tensor) -> float:
        value = fid(self._features, found.repeat_interleave(w.long(), dim=0))
        return float("nan") if value is None else value

    def _weights(self, count: int) -> Float[Tensor, "R N"]:
        """How often each of ``count`` counts; the first row is the data itself."""
        drawn = np.random.default_rng(_SEED).integers(count, size=(self.resamples, count))
        rows = [np.bincount(row, minlength=count) for row in drawn]
        return torch.from_numpy(np.stack([np.ones(count), *rows])).double()


def estimate(values: Float[Tensor, " R"]) -> Estimate:
    """From a value and its resamples; no interval where resamples are not finite."""
    value, resampled = float(values[0]), values[1:]
    if not len(resampled) or not bool(torch.isfinite(resampled).all()):
        return Estimate(value, float("nan"), float("nan"))
    ends = torch.quantile(resampled, resampled.new_tensor([0.025, 0.975])) - resampled.mean()
    return Estimate(value, *(value + ends).tolist())


def _means(values: Tensor, w: Tensor) -> Float[Tensor, " R"]:
    return w @ values.double() / w.sum(1)


def as_json(found: dict[str, Estimate]) -> dict[str, list[float | None]]:
    """``[value, low, high]`` of each; null where it is not known."""
    return {
        name: [x if np.isfinite(x) else None for x in (one.value, one.low, one.high)]
        for name, one in found.items()
    }
