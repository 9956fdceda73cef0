"""From cells to curves: means with bootstrap intervals, and robustness over the scales."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from threestudio_asd.compare.grid import Cell, Grid
from threestudio_asd.compare.measure import figures, metrics
from threestudio_asd.compare.measure.generators import GENERATORS
from threestudio_asd.compare.measure.measures import COSTS, MEASURES
from threestudio_asd.tiny.frechet import fid

RESAMPLES = 400
_SEED = 7


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % percentile interval, whose ends are NaN where it is not known."""

    value: float
    low: float
    high: float


class Summary:
    """Estimates of every measure for every method and scale.

    The bootstrap resamples prompts and seeds, crossed; all methods and scales share the draws.
    """

    def __init__(self, grid: Grid, records: dict[Cell, dict[str, Any]], cache: Path) -> None:
        self.grid, self.records = grid, records
        self.prompts, self.seeds = list(grid.cfg.prompts), list(grid.cfg.seeds)
        self.truth = {p: _truth(p, grid.cfg.generator, cache) for p in self.prompts}
        rng = np.random.default_rng(_SEED)
        self.prompts_drawn = self._draw(len(self.prompts), rng)
        self.seeds_drawn = self._draw(len(self.seeds), rng)
        self.values: dict[str, dict[tuple[str, float], np.ndarray]] = {}
        for name in MEASURES:
            found = {}
            for method in grid.rows:
                for scale in grid.scales:
                    values = self._measure(name, method, scale)
                    if values is not None:
                        found[method, scale] = values
            if found:
                self.values[name] = found

    def estimate(self, name: str, method: str, scale: float | None) -> Estimate | None:
        values = self.values.get(name, {}).get((method, scale))
        return None if values is None else self.interval(values)

    def drawn(self, name: str, method: str, scale: float | None) -> np.ndarray | None:
        """A measure under every draw, (resamples + 1,), the data themselves first; one whose best
        is 0 by its distance from it. None where no cell has it."""
        values = self.values.get(name, {}).get((method, scale))
        return np.abs(values) if values is not None and MEASURES[name].better == 0 else values

    def robustness(self, name: str, method: str) -> tuple[Estimate, Estimate] | None:
        """(worst, mean) of a measure over the grid's scales; None unless every scale is there.

        Measures whose best is 0 count by their distance from it.
        """
        curves = self._robustness(name, method)
        return None if curves is None else tuple(map(self.interval, curves))

    def advantage(self, name: str, method: str, other: str) -> tuple[Estimate, Estimate] | None:
        """By how much ``method`` is better than ``other``: the differences of (worst, mean).

        Both are drawn together, so that what is hard for both does not widen the interval.
        """
        ours, theirs = self._robustness(name, method), self._robustness(name, other)
        if ours is None or theirs is None:
            return None
        sign = 1.0 if MEASURES[name].better > 0 else -1.0
        return tuple(self.interval(sign * (a - b)) for a, b in zip(ours, theirs, strict=True))

    def _robustness(self, name: str, method: str) -> tuple[np.ndarray, np.ndarray] | None:
        """(worst, mean) over the scales, each (resamples + 1,)."""
        curves = [self.drawn(name, method, scale) for scale in self.grid.scales]
        if any(curve is None for curve in curves):
            return None
        stack = np.stack(curves)
        return (stack.min(0) if MEASURES[name].better > 0 else stack.max(0)), stack.mean(0)

    def distance(self, method: str, other: str, scale: float) -> Estimate | None:
        """Between two methods' results of the same prompt and seed, one by one, in the judge's
        features: to be read beside diversity, the distance between one method's own results."""
        ours, theirs = self._cells(method, scale), self._cells(other, scale)
        apart = {
            at: metrics.paired_distance(*(self._results(found[at]) for found in (ours, theirs)))
            for at in ours
            if at in theirs
        }
        return self.interval(self._drawn(apart)) if apart else None

    def of_prompt(self, name: str, method: str, prompt: str) -> float | None:
        """Mean of a measure over the method's cells of one prompt, all scales and seeds; None where
        none has it. Of the measures that a cell has by itself: not of KID and diversity."""
        at = (self.prompts.index(prompt), 0)
        records = [
            record
            for cell, record in self.records.items()
            if (cell.method, cell.prompt) == (method, prompt) and record.get(name) is not None
        ]
        return float(np.mean([self._cell_mean(name, at, r) for r in records])) if records else None

    def costs(self, method: str, scale: float | None = None) -> dict[str, float | None]:
        """Means over the method's cells, of one scale or of all; ``diverged`` is a share."""
        every = [record for cell, record in self.records.items() if cell.method == method]
        records = every if scale is None else self._cells(method, scale).values()
        known = {k: [r[k] for r in records if r.get(k) is not None] for k in COSTS}
        return {k: float(np.mean(v)) if v else None for k, v in known.items()}

    def fid(self, method: str, scale: float) -> float | None:
        """FID of all results against all truths; None below twice as many as there are features."""
        found = [
            r["features"]
            for cell, r in self.records.items()
            if cell == self.grid.cell(method, scale, cell.prompt, cell.seed)
        ]
        if not found:
            return None
        truth = torch.cat([torch.tensor(t["features"]) for t in self.truth.values()])
        return fid(truth, torch.cat([torch.tensor(f) for f in found]))

    def interval(self, values: np.ndarray) -> Estimate:
        """From (resamples + 1,); no interval where there is but one prompt and seed to draw."""
        resampled = values[1:][np.isfinite(values[1:])]
        if not len(resampled) or len(self.prompts) * len(self.seeds) == 1:
            return Estimate(float(values[0]), float("nan"), float("nan"))
        low, high = np.quantile(resampled, [0.025, 0.975])
        return Estimate(float(values[0]), float(low), float(high))

    @staticmethod
    def _draw(count: int, rng: np.random.Generator) -> np.ndarray:
        """(resamples + 1, count): how often each of ``count`` counts; row 0 is the data itself."""
        drawn = rng.integers(count, size=(RESAMPLES, count))
        counts = [np.bincount(row, minlength=count) for row in drawn]
        return np.stack([np.ones(count), *counts]).astype(float)

    def _measure(self, name: str, method: str, scale: float) -> np.ndarray | None:
        """The measure under every draw, (resamples + 1,); None where no cell has it."""
        cells = self._cells(method, scale)
        if name in ("kid", "diversity"):
            return self._pairwise(name, cells)
        means = {
            at: self._cell_mean(name, at, record)
            for at, record in cells.items()
            if record.get(name) is not None
        }
        return self._drawn(means) if means else None

    def _cells(self, method: str, scale: float) -> dict[tuple[int, int], dict[str, Any]]:
        """The records that are there, by the numbers of their prompt and seed."""
        return {
            (i, j): self.records[cell]
            for i, prompt in enumerate(self.prompts)
            for j, seed in enumerate(self.seeds)
            if (cell := self.grid.cell(method, scale, prompt, seed)) in self.records
        }

    def _results(self, record: dict[str, Any]) -> Tensor:
        """The features of each result, (N, D): of every particle; of a scene the mean of its views,
        which says nothing of where its front is."""
        features, generator = _images(record), GENERATORS[self.grid.cfg.generator]
        return features.mean(0, keepdim=True) if generator.views_are_one else features

    def _drawn(self, values: dict[tuple[int, int], float]) -> np.ndarray:
        """Means of the cells' values under every draw, (resamples + 1,)."""
        weights = np.stack(
            [self.prompts_drawn[:, i] * self.seeds_drawn[:, j] for i, j in values], axis=1
        )
        means = np.array(list(values.values()))
        return _weighted(weights, means[None].repeat(len(weights), 0))

    def _cell_mean(self, name: str, at: tuple[int, int], record: dict[str, Any]) -> float:
        value = float(np.mean(record[name]))
        if MEASURES[name].better == 0:
            value -= float(np.mean(self.truth[self.prompts[at[0]]][name]))
        return value

    def _pairwise(self, name: str, cells: dict[tuple[int, int], dict]) -> np.ndarray | None:
        """KID of images, or diversity of results, of each prompt, averaged over the prompts of each
        draw."""
        features = self._results if name == "diversity" else _images
        columns, weights = [], []
        for i, prompt in enumerate(self.prompts):
            mine = {j: features(record) for (k, j), record in cells.items() if k == i}
            if sum(len(f) for f in mine.values()) < 2:
                continue
            found = torch.cat(list(mine.values()))
            seed = [j for j, f in mine.items() for _ in f]
            truth = _images(self.truth[prompt])
            columns.append(_under_draws(name, truth, found, self.seeds_drawn[:, seed]))
            weights.append(self.prompts_drawn[:, i])
        if not columns:
            return None
        return _weighted(np.stack(weights, 1), np.stack(columns, 1))


def _images(record: dict[str, Any]) -> Tensor:
    """The features of each image, (N, D)."""
    return torch.tensor(record["features"])


def _under_draws(name: str, truth: Tensor, found: Tensor, weights: np.ndarray) -> np.ndarray:
    """KID or diversity of ``found`` (M, D) for each row of ``weights`` (R, M)."""
    rows, inverse = np.unique(weights, axis=0, return_inverse=True)
    w = torch.from_numpy(rows)
    values = metrics.kid(truth, found, w) if name == "kid" else metrics.diversity(found, w)
    return values.numpy()[inverse.reshape(-1)]


def _weighted(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Row means of ``values`` with ``weights``; items of weight 0 or NaN do not count."""
    weights = np.where(np.isfinite(values), weights, 0.0)
    total = weights.sum(1)
    summed = (weights * np.nan_to_num(values)).sum(1)
    return np.where(total > 0, summed / np.maximum(total, 1e-12), np.nan)


def _truth(prompt: str, generator: str, cache: Path) -> dict[str, Any]:
    return figures.of_images(figures.truth(prompt, generator, cache), prompt)
