"""From records to a table and a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import stats

from one_step_parts.cells import CELLS, REFERENCES
from threestudio_asd.compare.report.summary import Estimate
from threestudio_asd.compare.report.tables import text
from threestudio_asd.files import written_whole
from threestudio_asd.generators.measure.measures import MEASURES

TABLE = "table.md"
PICTURE = "pictures.png"
SIDE = 64
LABEL = 120


def over_seeds(values: Sequence[float | None]) -> Estimate | None:
    """The mean, with its 95 % interval by Student's t where there are two seeds or more; None if a
    seed has no value."""
    if not values or any(value is None for value in values):
        return None
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Estimate(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half)


def read(results: Path) -> dict[str, dict[str, Any]]:
    """The records by name of file."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(results.glob("*.json"))}


def markdown(results: Path) -> Path:
    """``table.md`` of the records that are there."""
    records = read(results)
    columns = list(MEASURES)
    titles = [MEASURES[name][0] for name in columns]
    head = ["", "evaluations", "iterations", "seeds", *titles, "CPU minutes"]
    rows = [_row_of_reference(records[key], columns) for key in REFERENCES if key in records]
    for group in _groups(records):
        first = group[0]
        values = [over_seeds([r["figures"][name][0] for r in group]) for name in columns]
        minutes = over_seeds([r["minutes"]["cpu"] for r in group]).value
        seeds = ", ".join(str(r["seed"]) for r in group)
        row = [first["cell"], str(first["evaluations"]), str(first["iterations"]), seeds]
        rows.append([*row, *map(text, values), f"{minutes:.1f}"])
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    path = results / TABLE
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        partial.write_text("\n".join([*lines, "", *_notes(records), ""]))
    return path


def picture(out: Path, results: Path, strip: str) -> Path | None:
    """``pictures.png``: the first picture of each object by each way of drawing, of the same
    captions and the same noise; of each cell the lowest seed. None where there is none yet."""
    records = read(results)
    shown = [(key, records[key]["title"]) for key in REFERENCES if key in records]
    shown += [
        (f"{r['cell']}-{r['iterations']}-{r['seed']}", r["cell"])
        for r in (group[0] for group in _groups(records))
    ]
    # The true renders of other cameras have other captions.
    shown = [(key, title) for key, title in shown if key != "true-renders"]
    rows = [(title, out / key / strip) for key, title in shown if (out / key / strip).is_file()]
    if not rows:
        return None
    images = [Image.open(file) for _, file in rows]
    sheet = Image.new("RGB", (LABEL + max(i.width for i in images), SIDE * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, ((title, _), image) in enumerate(zip(rows, images, strict=True)):
        draw.text((4, SIDE * y + SIDE // 2 - 5), title, fill="black")
        sheet.paste(image, (LABEL, SIDE * y))
    path = results / PICTURE
    with written_whole(path) as partial:
        sheet.save(partial, format="PNG")
    return path


def _groups(records: dict[str, dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Records that differ in their seed alone, cells in their order."""
    order, groups = list(CELLS), {}
    for record in records.values():
        if record.get("cell") in order:
            alike = [record[key] for key in ("settings", "reals", "measured")]
            key = order.index(record["cell"]), record["iterations"], json.dumps(alike)
            groups.setdefault(key, []).append(record)
    return [sorted(group, key=lambda r: r["seed"]) for _, group in sorted(groups.items())]


def _row_of_reference(record: dict[str, Any], columns: Sequence[str]) -> list[str]:
    found = [record["figures"][name] for name in columns]
    nan = float("nan")
    values = [text(Estimate(*(nan if x is None else x for x in three))) for three in found]
    evaluations = str(record["evaluations"] or "–")
    return [record["title"], evaluations, "–", "–", *values, "–"]


def _notes(records: dict[str, dict[str, Any]]) -> list[str]:
    """What stands below the table."""
    if not records:
        return ["No cell has been measured yet."]
    measured = {json.dumps(r["measured"], sort_keys=True) for r in records.values()}
    told = [
        f"{m['samples']:,} pictures of each against {m['truth']:,} true renders, teacher "
        f"{m['teacher']}."
        for m in map(json.loads, sorted(measured))
    ]
    if len(told) > 1:
        told.append("**Rows were measured with different numbers and cannot be compared.**")
    told.append(
        "Brackets: of the truth and the teacher 95 % bootstrap intervals over the pictures; of the "
        "others 95 % intervals of the mean over seeds."
    )
    return told
