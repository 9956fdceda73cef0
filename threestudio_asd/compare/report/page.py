"""The page: one HTML file that needs nothing else."""

import base64
import platform
from collections.abc import Iterable, Sequence
from html import escape
from importlib import metadata
from itertools import product
from pathlib import Path

from threestudio_asd import __version__
from threestudio_asd.compare.archive import Archive
from threestudio_asd.compare.grid import Cell, Grid
from threestudio_asd.compare.measure.measures import COSTS, MEASURES
from threestudio_asd.compare.records import read_picture
from threestudio_asd.compare.report import fronts, scatter, tables
from threestudio_asd.compare.report.assets import asset
from threestudio_asd.compare.report.charts import Curve, chart
from threestudio_asd.compare.report.summary import Summary
from threestudio_asd.compare.report.viewer import viewer
from threestudio_asd.files import written_whole
from threestudio_asd.tiny.judge import load_report

_LIBRARIES = ("torch", "diffusers", "peft", "pytorch-lightning", "torchmetrics", "trimesh")
# Distinguishable for the colour-blind (Okabe and Ito); further methods repeat them, dashed.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a7fd0", "#7a7a7a")

_MANY = 6  # methods whose bands would hide each other


def write_page(grid: Grid, summary: Summary, out: Path, commands: Sequence[str]) -> Path:
    """``index.html`` in ``out``; returns its path.

    Args:
        commands: The command lines that made the figures.
    """
    archive = Archive.of(out)
    total, done = len(grid.cells), len(summary.records)
    bands = " (under the pointer)" if len(grid.rows) > _MANY else ""
    state = "" if done == total else f" {total - done} of {total} cells are still to run."
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
        "<h2>Cost</h2>" + _plain(tables.costs(grid, summary)),
        _commands(commands, summary),
    ]
    path = out / "index.html"
    with written_whole(path) as partial:
        partial.write_text(_document(grid, "\n".join(parts)))
    return path


def _document(grid: Grid, body: str) -> str:
    style = asset("page.css") + asset("viewer.css")
    colors = "".join(
        f".m{i}{{--c:{_COLORS[i % len(_COLORS)]}}}.m{i} polyline{{stroke:var(--c);"
        f"stroke-dasharray:{'none' if i < len(_COLORS) else '5 4'}}}"
        f".m{i} polygon,.m{i} circle{{fill:var(--c)}}"
        for i in range(len(grid.rows))
    )
    if len(grid.rows) > _MANY:
        colors += asset("bands.css")
    if grid.cfg.front:
        colors += asset("front.css")
    for i in range(len(_COLORS), len(grid.rows)):
        stripes = "90deg,var(--c) 0 3px,transparent 3px 5px"
        colors += f".m{i}.key::before{{background:repeating-linear-gradient({stripes})}}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(grid.cfg.title)}</title><style>{style}{colors}</style></head>"
        f"<body>\n{body}\n</body></html>\n"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _scales(grid: Grid) -> str:
    if not grid.cfg.scales:
        return "each at its own guidance scale"
    return _count(len(grid.scales), "guidance scale")


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; the first of each row is its title."""
    top = "".join(f'<th scope="col">{h}</th>' for h in head)
    lines = [
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{c}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    ]
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>'
        + "".join(lines)
        + "</tbody></table></div>"
    )


def _plain(table: tables.Table) -> str:
    """A table of plain text."""
    return _table(map(escape, table.head), [list(map(escape, row)) for row in table.rows])


def _robustness(grid: Grid, summary: Summary) -> str:
    laid_out = "".join(map(_plain, tables.robustness(grid, summary)))
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
    told = _plain(fronts.table(grid, summary))
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
        body = _table(head, rows)
        parts.append(f"<details{opened}><summary>{escape(prompt)}</summary>{body}</details>")
    return "".join(parts)


def _picture(summary: Summary, archive: Archive, cell: Cell) -> str:
    """A turntable where there is one, else the pictures side by side."""
    found = ((kind, read_picture(archive, cell, kind)) for kind in ("webp", "png"))
    kind, content = next(((k, data) for k, data in found if data), ("", b""))
    if cell not in summary.records or not content:
        return "-"
    data = base64.b64encode(content).decode()
    alt = escape(f"{cell.method}, s = {cell.scale:g}: {cell.prompt}", quote=True)
    return f'<img class="{kind}" alt="{alt}" src="data:image/{kind};base64,{data}">'


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
        f"<details><summary>{escape(title)} ({escape(note)})</summary>{_plain(table)}</details>"
        for title, note, table in found
    )


def _curves(grid: Grid, summary: Summary) -> str:
    keys = "".join(
        f'<span class="key m{i}">{escape(method)}</span>' for i, method in enumerate(grid.rows)
    )
    parts = []
    for title, x_title, x_of in (
        ("the guidance scale", "guidance scale s", lambda method, s: s),
        ("s', the scale of the equivalent VSD", "s'", grid.effective_scale),
    ):
        positions = {(m, s): x_of(m, s) for m in grid.rows for s in grid.scales}
        parts.append(f"<h2>Over {escape(title)}</h2><p>{keys}</p><div class='charts'>")
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


def _commands(commands: Sequence[str], summary: Summary) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    machines = sorted({r["machine"] for r in summary.records.values() if "machine" in r})
    lines = (
        f"threestudio-asd {__version__}, Python {platform.python_version()}, {versions}; "
        f"{'; '.join(machines)}; judge {load_report()['sha256'][:12]}"
    )
    shown = escape("\n".join(commands))
    return f"<h2>How it was made</h2><pre>{shown}</pre><p>{escape(lines)}</p>"
