"""The figures as Markdown, for documents that others review."""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

from threestudio_asd.files import written_whole

from .grid import Grid
from .summary import MEASURES, QUALITY, Estimate, Summary


def write_tables(grid: Grid, summary: Summary, out: Path) -> Path:
    """``tables.md`` in ``out``: robustness, advantages, every measure over the scale, distances."""
    parts = [f"# {grid.cfg.title}", _robustness(grid, summary), _advantages(grid, summary)]
    for name in summary.values:
        head = ["method", *(f"s = {s:g}" for s in grid.cfg.scales)]
        rows = [
            [m, *(text(summary.estimate(name, m, s)) for s in grid.cfg.scales)] for m in grid.rows
        ]
        note = MEASURES[name].note
        parts.append(f"## {MEASURES[name].title}\n\n{note}\n\n{table(head, rows)}")
    parts.append(_distances(grid, summary))
    path = out / "tables.md"
    with written_whole(path) as partial:
        partial.write_text("\n\n".join(parts) + "\n")
    return path


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar within a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in r)} |" for r in lines)


def text(estimate: Estimate | None) -> str:
    """Value and interval."""
    if estimate is None or not math.isfinite(estimate.value):
        return "-"
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _robustness(grid: Grid, summary: Summary) -> str:
    names = [name for name in QUALITY if name in summary.values]
    parts = ["## Robustness over the scale"]
    for index, title in enumerate(("worst", "mean")):
        found = {m: [summary.robustness(n, m) for n in names] for m in grid.rows}
        rows = [[m, *(text(f and f[index]) for f in row)] for m, row in found.items()]
        parts.append(table([f"{title} of the scales", *(MEASURES[n].title for n in names)], rows))
    return "\n\n".join(parts)


def _advantages(grid: Grid, summary: Summary) -> str:
    """Of every method over every other that comes before it."""
    names = [name for name in QUALITY if name in summary.values]
    rows = []
    for other, method in combinations(grid.rows, 2):
        found = [summary.advantage(name, method, other) for name in names]
        for index, title in enumerate(("worst", "mean")):
            cells = [text(f and f[index]) for f in found]
            rows.append([f"{method} over {other}", title, *cells])
    head = ["by how much better", "of the scales", *(MEASURES[name].title for name in names)]
    return f"## Differences\n\nBoth methods drawn together.\n\n{table(head, rows)}"


def _distances(grid: Grid, summary: Summary) -> str:
    rows = [
        [f"{a} to {b}", *(text(summary.distance(a, b, s)) for s in grid.cfg.scales)]
        for a, b in combinations(grid.rows, 2)
    ]
    head = ["between two methods", *(f"s = {s:g}" for s in grid.cfg.scales)]
    note = "in the judge's features, between results of the same prompt and seed"
    return f"## distance between methods\n\n{note}\n\n{table(head, rows)}"
