"""The figures as Markdown, for documents that others review."""

from pathlib import Path

from threestudio_asd.compare.grid import Grid
from threestudio_asd.compare.measure.measures import MEASURES
from threestudio_asd.compare.report import fronts, tables
from threestudio_asd.compare.report.summary import Summary
from threestudio_asd.compare.report.tables import Table
from threestudio_asd.files import written_whole


def write_tables(grid: Grid, summary: Summary, out: Path) -> Path:
    """``tables.md`` in ``out``: robustness, advantages, prompts, every measure over the scale,
    distances."""
    learnt = f"Teacher: {grid.teachers}; {grid.length}."
    parts = [f"# {grid.cfg.title}", learnt, f"## {tables.robustness_title(grid)}"]
    parts += map(laid_out, tables.robustness(grid, summary))
    if grid.cfg.front:
        title, note = fronts.FRONT
        parts += [f"## {title}", note, laid_out(fronts.table(grid, summary))]
    parts += ["## Differences", "Both methods drawn together."]
    parts.append(laid_out(tables.advantages(grid, summary)))
    title, note = tables.PROMPTS
    parts += [f"## {title}", note, laid_out(tables.by_prompt(grid, summary))]
    for name in summary.values:
        parts += [f"## {MEASURES[name].title}", MEASURES[name].note]
        parts.append(laid_out(tables.over_scales(name, grid, summary)))
    title, note = tables.DISTANCE
    parts += [f"## {title}", note, laid_out(tables.distances(grid, summary))]
    path = out / "tables.md"
    with written_whole(path) as partial:
        partial.write_text("\n\n".join(parts) + "\n")
    return path


def laid_out(table: Table) -> str:
    """A Markdown table; a bar within a cell is escaped."""
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    return "\n".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in r)} |" for r in lines)
