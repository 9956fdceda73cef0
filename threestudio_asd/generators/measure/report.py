"""The page of an evaluation, and its pictures as files."""

import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image
from torch import Tensor

from threestudio_asd.compare.report.charts import Curve, chart
from threestudio_asd.compare.report.html import (
    document,
    how_it_was_made,
    keys,
    picture,
    plain,
    table,
)
from threestudio_asd.compare.report.tables import Table, text
from threestudio_asd.files import written_whole
from threestudio_asd.generators.measure.evaluate import Results
from threestudio_asd.generators.measure.measures import MEASURES
from threestudio_asd.generators.measure.yardstick import Measured
from threestudio_asd.tiny.pictures import as_picture, scenes_grid
from threestudio_asd.tiny.scenes import OBJECTS

TITLE = "Pictures in one step"
#: Measures with a chart of their own.
_DRAWN = ("fid", "right", "diversity")


def write_page(results: Results, out: Path, commands: Sequence[str], machine: str) -> Path:
    """``index.html`` in ``out``, and a ``grid-*.png`` for each way of drawing; returns the page."""
    for row in results.rows:
        name = re.sub(r"[^a-z0-9.]+", "-", row.title.lower()).strip("-")
        with written_whole(out / f"grid-{name}.png") as partial:
            _grid(row).save(partial, format="PNG")
    request = results.request
    parts = [
        f"<h1>{TITLE}</h1>",
        f"<p>{request.samples:,} pictures of each, of the captions of true renders, against "
        f"{request.truth:,} renders. Teacher: {escape(Path(results.teacher).name)}, 25 steps of "
        "DDIM, with two evaluations a step where it is guided. Teacher and generators start from "
        "the same noise. Brackets: 95 % bootstrap intervals over the pictures.</p>",
        plain(figures(results)),
        *(f"<p>{escape(title)}: {escape(note)}.</p>" for title, note in MEASURES.values()),
        _charts(results.rows),
        "<h2>The same captions and the same noise</h2>",
        _side_by_side(results),
        "<h2>Every object in every colour</h2>",
        "<p>The first sample of each pair; grey: kept out of all training.</p>",
        *(_folded(row) for row in results.rows),
        how_it_was_made(commands, [machine]),
    ]
    path, series = out / "index.html", {row.series for row in results.rows}
    with written_whole(path) as partial:
        partial.write_text(document(TITLE, "\n".join(parts), len(series)))
    return path


def figures(results: Results) -> Table:
    """A row for each way of drawing, by what draws and how often the network is evaluated."""
    rows = [
        [row.series, str(row.evaluations), *(text(row.figures[name]) for name in MEASURES)]
        for row in results.rows
    ]
    return Table(["", "evaluations", *(title for title, _ in MEASURES.values())], rows)


def _charts(rows: Sequence[Measured]) -> str:
    drawn = [row for row in rows if row.evaluations]
    series = list(dict.fromkeys(row.series for row in drawn))
    parts = ["<h2>Over the evaluations of the network</h2>", keys(series), "<div class='charts'>"]
    for name in _DRAWN:
        curves = []
        for i, title in enumerate(series):
            mine = [row for row in drawn if row.series == title]
            found = [(float(row.evaluations), row.figures[name]) for row in mine]
            curves.append(Curve(title, i, [(x, e.value, e.low, e.high) for x, e in found]))
        title, note = MEASURES[name]
        svg = chart(curves, "evaluations", title)
        said = escape(f"{title} ({note})")
        parts.append(f"<figure><figcaption>{said}</figcaption>{svg}</figure>")
    return "".join([*parts, "</div>"])


def _side_by_side(results: Results) -> str:
    """The first sample of each object: a column for each way of drawing, the truth left out."""
    shown = [row for row in results.rows if row.captions == results.rows[-1].captions]
    first: dict[str, int] = {}
    for i, (name, _) in enumerate(shown[0].pairs):
        first.setdefault(name, i)
    rows = []
    for i in (first[name] for name in OBJECTS if name in first):
        caption = shown[0].captions[i]
        pictures = (
            _embedded(as_picture(r.images[i] / 255), "png", f"{r.title}: {caption}") for r in shown
        )
        rows.append([escape(caption), *pictures])
    return table(["caption", *(escape(row.title) for row in shown)], rows)


def _folded(row: Measured) -> str:
    drawn = _embedded(_grid(row), "webp", row.title)
    return f"<details><summary>{escape(row.title)}</summary>{drawn}</details>"


def _grid(row: Measured) -> Image.Image:
    first: dict[tuple[str, str], Tensor] = {}
    for i, pair in enumerate(row.pairs):
        first.setdefault(pair, row.images[i] / 255)
    return scenes_grid(first)


def _embedded(image: Image.Image, kind: str, alt: str) -> str:
    content = io.BytesIO()
    image.save(content, format=kind.upper(), quality=90)
    return picture(content.getvalue(), kind, alt)
