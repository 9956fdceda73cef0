"""The page: one HTML file that needs nothing else."""

from collections.abc import Sequence
from html import escape
from itertools import product
from pathlib import Path

from threestudio_asd.compare.archive import Archive
from threestudio_asd.compare.grid import Cell, Grid
from threestudio_asd.compare.measure.measures import COSTS, MEASURES
from threestudio_asd.compare.records import read_picture
from threestudio_asd.compare.report import fronts, scatter, tables
from threestudio_asd.compare.report.charts import Curve, chart
from threestudio_asd.compare.report.html import (
    MANY,
    document,
    how_it_was_made,
    keys,
    picture,
    plain,
    table,
)
from threestudio_asd.compare.report.summary import Summary
from threestudio_asd.compare.report.viewer import viewer
from threestudio_asd.files import written_whole


def write_page(grid: Grid, summary: Summary, out: Path, commands: Sequence[str]) -> Path:
    """``index.html`` in ``out``; returns its path.

    Args:
        commands: The command lines that made the figures.
    """
    archive = Archive.of(out)
    total, done = len(grid.cells), len(summary.records)
    bands = " (under the pointer)" if len(grid.rows) > MANY else ""
    state = "" if done == total else f" {total - done} of {total} cells are still to run."
    machines = sorted({r["machine"] for r in summary.records.values() if "machine" in r})
    parts = [
        f"<h1>{escape(grid.cfg.title)}</h1>",
        f"<p>{_count(done, 'run')} of {grid.length}: "
        f"{_count(len(grid.rows), 'method')}, {_scales(grid)} s "
        f"(e_null + s (e_y - e_null)), {_count(len(grid.cfg.prompts), 'prompt')}, "
        f"{_count(len(grid.cfg.seeds), 'seed')}. "
        f"Teacher: {escape(grid.teachers)}. "
        f"Brackets and bands{bands}: 95 % bootstrap intervals over prompts and seeds."
        f"{escape(state)}</p>",
        _robustness(grid, summary),
        _fronts(grid, summary) if grid.cfg.front else "",
        _pictures(grid, summary, archive),
        _meshes(grid, summary, archive),
        _figures(grid, summary),
        _curves(grid, summary) if len(grid.scales) > 1 else "",
        "<h2>Cost</h2>" + plain(tables.costs(grid, summary)),
        how_it_was_made(commands, machines),
    ]
    styles = ("front.css",) if grid.cfg.front else ()
    path = out / "index.html"
    with written_whole(path) as partial:
        partial.write_text(document(grid.cfg.title, "\n".join(parts), len(grid.rows), styles))
    return path


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _scales(grid: Grid) -> str:
    if not grid.cfg.scales:
        return "each at its own guidance scale"
    return _count(len(grid.scales), "guidance scale")


def _robustness(grid: Grid, summary: Summary) -> str:
    laid_out = "".join(map(plain, tables.robustness(grid, summary)))
    note = (
        "Saturation and sharpness count by their distance from the truth's. "
        "A method appears once all of its scales have figures."
    )
    return f"<h2>{tables.robustness_title(grid)}</h2>{laid_out}<p>{note}</p>"


def _fronts(grid: Grid, summary: Summary) -> str:
    """Quality over cost, for the measures that the grid asks it of."""
    title, note = fronts.FRONT
    parts = [f"<h2>{title}</h2><p>{scatter.NOTE}</p><div class='charts'>"]
    for name, price in product(fronts.names(grid, summary), fronts.PRICES):
        points = fronts.priced(grid, summary, name, price)
        titles = (COSTS[price], fronts.measured(name))
        drawn = scatter.scatter(points, *titles, down=MEASURES[name].better <= 0)
        told = f"{escape(titles[1])} ({escape(MEASURES[name].note)}) over {escape(titles[0])}"
        parts.append(f"<figure><figcaption>{told}</figcaption>{drawn}</figure>")
    told = plain(fronts.table(grid, summary))
    return "".join(parts) + f"</div><p>{escape(note)}</p>{told}"


def _pictures(grid: Grid, summary: Summary, archive: Archive) -> str:
    """Method x scale for every prompt, first seed."""
    parts = ["<h2>Results</h2>"]
    seed = grid.cfg.seeds[0]
    head = ["method", *tables.scale_titles(grid)]
    for prompt in grid.cfg.prompts:
        rows = []
        for method in grid.rows:
            cells = [grid.cell(method, s, prompt, seed) for s in grid.scales]
            rows.append([escape(method), *(_picture(summary, archive, cell) for cell in cells)])
        opened = " open" if prompt == grid.cfg.prompts[0] else ""
        body = table(head, rows)
        parts.append(f"<details{opened}><summary>{escape(prompt)}</summary>{body}</details>")
    return "".join(parts)


def _picture(summary: Summary, archive: Archive, cell: Cell) -> str:
    """A turntable where there is one, else the pictures side by side."""
    found = ((kind, read_picture(archive, cell, kind)) for kind in ("webp", "png"))
    kind, content = next(((k, data) for k, data in found if data), ("", b""))
    if cell not in summary.records or not content:
        return "-"
    return picture(content, kind, f"{cell.method}, s = {cell.scale:g}: {cell.prompt}")


def _meshes(grid: Grid, summary: Summary, archive: Archive) -> str:
    """The meshes of 3D results: every prompt and method at the middle scale, first seed."""
    scale = sorted(grid.scales)[len(grid.scales) // 2]
    cells = [
        grid.cell(method, scale, prompt, grid.cfg.seeds[0])
        for prompt in grid.cfg.prompts
        for method in grid.rows
    ]
    found = [
        (f"{cell.prompt}: {cell.method}, s = {cell.scale:g}", ply)
        for cell in cells
        if cell in summary.records and (ply := read_picture(archive, cell, "ply"))
    ]
    return "<h2>Meshes</h2>" + viewer(found) if found else ""


def _figures(grid: Grid, summary: Summary) -> str:
    """Every measure at every scale and of every prompt, and how far apart the methods are."""
    found = [
        (MEASURES[name].title, MEASURES[name].note, tables.over_scales(name, grid, summary))
        for name in summary.values
    ]
    found.append((*tables.PROMPTS, tables.by_prompt(grid, summary)))
    if len(grid.rows) > 1:
        found.append((*tables.DISTANCE, tables.distances(grid, summary)))
    return "<h2>Figures</h2>" + "".join(
        f"<details><summary>{escape(title)} ({escape(note)})</summary>{plain(table)}</details>"
        for title, note, table in found
    )


def _curves(grid: Grid, summary: Summary) -> str:
    parts = []
    for title, x_title, x_of in (
        ("the guidance scale", "guidance scale s", lambda method, s: s),
        ("s', the scale of the equivalent VSD", "s'", grid.effective_scale),
    ):
        positions = {(m, s): x_of(m, s) for m in grid.rows for s in grid.scales}
        parts.append(f"<h2>Over {escape(title)}</h2>{keys(grid.rows)}<div class='charts'>")
        for name in summary.values:
            curves = [
                Curve(method, i, _points(grid, summary, name, method, positions))
                for i, method in enumerate(grid.rows)
            ]
            note = f"{escape(MEASURES[name].title)} ({escape(MEASURES[name].note)})"
            drawn = chart(curves, x_title, MEASURES[name].title)
            parts.append(f"<figure><figcaption>{note}</figcaption>{drawn}</figure>")
        parts.append("</div>")
    return "".join(parts)


def _points(grid: Grid, summary: Summary, name: str, method: str, positions: dict) -> list[tuple]:
    points = []
    for scale in grid.scales:
        found = summary.estimate(name, method, scale)
        if found is not None:
            points.append((positions[method, scale], found.value, found.low, found.high))
    return points
