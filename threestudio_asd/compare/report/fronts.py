"""What quality costs: every row's cost and quality, and the front of those that no other row is
better than and as cheap as."""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from threestudio_asd.compare.grid import Grid
from threestudio_asd.compare.measure.measures import COSTS, MEASURES
from threestudio_asd.compare.report.summary import Estimate, Summary
from threestudio_asd.compare.report.tables import Table, text

PRICES = ("unet_evaluations_in_all", "seconds")
"""The costs that quality is shown over."""
FRONT = (
    "Quality over cost",
    "the front: rows that no other is at least as good as for less, nor better than for no more; "
    "beside each measure, in which share of the bootstrap draws a row is on it, with its UNet "
    "evaluations and with its seconds as the cost",
)
"""Title and note of ``table``."""


@dataclass(frozen=True)
class Priced:
    """A row, at a scale of the grid.

    Args:
        title: Its name, with the scale where the grid has several.
        cost: The mean of its runs.
        quality: Of a measure; one whose best is 0 by its distance from it.
        best: Whether it is on the front.
        share: Of the draws, in which it is.
    """

    title: str
    cost: float
    quality: Estimate
    best: bool
    share: float


def on_front(costs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which of N rows no other one beats: none that is as good costs less, and none that costs no
    more is better.

    Args:
        costs: (N,).
        values: (N, R), under each of R draws, the more the better; NaN is on no front.

    Returns:
        (N, R), bool.
    """
    ours, theirs = costs[:, None, None], costs[None, :, None]
    good, other = values[:, None], values[None, :]
    beats = (ours <= theirs) & (good >= other) & ((ours < theirs) | (good > other))
    return ~beats.any(0) & np.isfinite(values)


def measured(name: str) -> str:
    """A measure's title; where 0 is best, as a distance from it."""
    return MEASURES[name].title if MEASURES[name].better else f"|{MEASURES[name].title}|"


def names(grid: Grid, summary: Summary) -> list[str]:
    """The measures that the grid asks a front of and its cells have."""
    return [name for name in grid.cfg.front if name in summary.values]


def priced(grid: Grid, summary: Summary, name: str, price: str) -> list[Priced]:
    """The rows that have the measure ``name`` and the cost ``price``."""
    found = []
    for method, scale in product(grid.rows, grid.scales):
        drawn, cost = summary.drawn(name, method, scale), summary.costs(method, scale)[price]
        if drawn is not None and cost and math.isfinite(drawn[0]):
            found.append((_title(grid, method, scale), cost, drawn))
    if not found:
        return []
    titles, costs, drawn = zip(*found, strict=True)
    sign = 1.0 if MEASURES[name].better > 0 else -1.0
    front = on_front(np.array(costs), sign * np.stack(drawn))
    best, shares = front[:, 0].tolist(), front[:, 1:].mean(1).tolist()
    quality = map(summary.interval, drawn)
    return [Priced(*row) for row in zip(titles, costs, quality, best, shares, strict=True)]


def table(grid: Grid, summary: Summary) -> Table:
    """Row x its costs, the measures, and how often it is on their fronts."""
    head = ["row", *(COSTS[price] for price in PRICES)]
    rows = [
        [_title(grid, *row), *(_cost(summary.costs(*row)[price]) for price in PRICES)]
        for row in product(grid.rows, grid.scales)
    ]
    for name in names(grid, summary):
        head += [measured(name), "on the front"]
        of = [{p.title: p for p in priced(grid, summary, name, price)} for price in PRICES]
        for row in rows:
            points = [found.get(row[0]) for found in of]
            row.append(text(next((p.quality for p in points if p), None)))
            row.append(", ".join("-" if p is None else f"{p.share:.0%}" for p in points))
    return Table(head, rows)


def _cost(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _title(grid: Grid, method: str, scale: float | None) -> str:
    own = grid.rows[method].scale is not None
    return method if own or len(grid.scales) == 1 else f"{method}, s = {scale:g}"
