"""The figures of a grid as tables of text, which the page and the Markdown file lay out."""

import math
from dataclasses import dataclass
from itertools import combinations

from threestudio_asd.compare.grid import Grid
from threestudio_asd.compare.measure.measures import COSTS, MEASURES
from threestudio_asd.compare.report.summary import Estimate, Summary

DISTANCE = (
    "distance between methods",
    "in the judge's features, between results of the same prompt and seed",
)
"""Title and note of ``distances``."""
PROMPTS = ("by prompt", "means of the runs: a mean over prompts may hide one that fails")
"""Title and note of ``by_prompt``."""
_OF_PROMPTS = ("p_pair", "silhouette_iou", "surface_fscore", "volume_iou", "janus")


@dataclass(frozen=True)
class Table:
    """Plain text: whoever lays it out escapes it. The first of each row is its title."""

    head: list[str]
    rows: list[list[str]]


def text(estimate: Estimate | None) -> str:
    """Value and interval."""
    if estimate is None or not math.isfinite(estimate.value):
        return "-"
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def robustness_title(grid: Grid) -> str:
    return "Robustness over the scale" if len(grid.scales) > 1 else "Quality"


def robustness(grid: Grid, summary: Summary) -> list[Table]:
    """The worst of the scales, and the mean of the scales: method x measure; one table of the scale
    where there is but one."""
    names = _quality(summary)
    found = {m: [summary.robustness(name, m) for name in names] for m in grid.rows}
    return [
        Table(
            [title, *(MEASURES[name].title for name in names)],
            [[m, *(text(both and both[index]) for both in row)] for m, row in found.items()],
        )
        for index, title in _of_scales(grid)
    ]


def advantages(grid: Grid, summary: Summary) -> Table:
    """The differences of every method over every other before it."""
    names = _quality(summary)
    rows = []
    for other, method in combinations(grid.rows, 2):
        found = [summary.advantage(name, method, other) for name in names]
        for index, title in _of_scales(grid):
            cells = [text(both and both[index]) for both in found]
            rows.append([f"{method} over {other}", title, *cells])
    titles = [MEASURES[name].title for name in names]
    return Table(["by how much better", "", *titles], rows)


def over_scales(name: str, grid: Grid, summary: Summary) -> Table:
    """One measure: method x scale."""
    rows = [[m, *(text(summary.estimate(name, m, s)) for s in grid.scales)] for m in grid.rows]
    return Table(["method", *scale_titles(grid)], rows)


def distances(grid: Grid, summary: Summary) -> Table:
    """Between every two methods at every scale."""
    rows = [
        [f"{a} to {b}", *(text(summary.distance(a, b, s)) for s in grid.scales)]
        for a, b in combinations(grid.rows, 2)
    ]
    return Table(["between two methods", *scale_titles(grid)], rows)


def by_prompt(grid: Grid, summary: Summary) -> Table:
    """Prompt x measure of each method."""
    columns = [(m, name) for name in _OF_PROMPTS if name in summary.values for m in grid.rows]
    rows = [
        [prompt, *(_decimals(summary.of_prompt(name, m, prompt)) for m, name in columns)]
        for prompt in grid.cfg.prompts
    ]
    return Table(["", *(f"{MEASURES[name].title}: {m}" for m, name in columns)], rows)


def costs(grid: Grid, summary: Summary) -> Table:
    """Seconds, UNet evaluations, memory and the share that diverged, of every method."""
    rows = [[m, *(_number(value) for value in summary.costs(m).values())] for m in grid.rows]
    return Table(["mean of the runs", *COSTS.values()], rows)


def scale_titles(grid: Grid) -> list[str]:
    return ["own scale" if scale is None else f"s = {scale:g}" for scale in grid.scales]


def _of_scales(grid: Grid) -> list[tuple[int, str]]:
    """What ``Summary.robustness`` gives that is worth telling: its number and its title."""
    if len(grid.scales) == 1:
        return [(1, *scale_titles(grid))]
    return [(0, "worst of the scales"), (1, "mean of the scales")]


def _quality(summary: Summary) -> list[str]:
    """The measures of quality that the grid has."""
    return [name for name, row in MEASURES.items() if row.quality and name in summary.values]


def _decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"
