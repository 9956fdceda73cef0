"""Through the grid: skip the cells that are there, run the others, tell how long it takes."""

import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from rich.live import Live
from rich.table import Table
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.studio import log

from . import measure
from .grid import Cell, Grid, make_folder
from .train import teachers_loaded_once, train

Record = dict[str, Any]


def record_path(out: Path, cell: Cell) -> Path:
    return out / "cells" / f"{cell.name}.json"


def picture_path(out: Path, cell: Cell) -> Path:
    return out / "cells" / f"{cell.name}.png"


def read_record(path: Path) -> Record | None:
    """A cell's record; None if there is none, or an unreadable one, which is said aloud."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warn("%s is unreadable (%s).", path, error)
        return None


def write_record(path: Path, record: Record) -> None:
    """Whole or not at all, whenever the process is killed."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(record) + "\n")
    partial.replace(path)


def save_picture(path: Path, images: Tensor) -> None:
    """Pictures (N, 3, h, w) in [0, 1] side by side."""
    row = (torch_row(images) * 255).round().byte().numpy()
    partial = path.with_suffix(f".{os.getpid()}.partial")
    Image.fromarray(row).save(partial, format="PNG")
    partial.replace(path)


def torch_row(images: Tensor) -> Tensor:
    """(N, 3, h, w) to (h, N w, 3)."""
    return images.nan_to_num(0.5).clamp(0, 1).permute(2, 0, 3, 1).flatten(1, 2)


def finished(grid: Grid, out: Path) -> dict[Cell, Record]:
    """The records of this grid's cells; those of another config are left out, and named."""
    found, other = {}, []
    for cell in grid.cells:
        record = read_record(record_path(out, cell))
        if record is None:
            continue
        if record.get("config_hash") == grid.config_hash(cell):
            found[cell] = record
        else:
            other.append(cell.name)
    if other:
        names = ", ".join(other[:3]) + (", ..." if len(other) > 3 else "")
        log.warn(
            "%d cells in %s have figures of another config or version; they do not count (%s).",
            *(len(other), out, names),
        )
    return found


def run_grid(grid: Grid, out: Path, shard: tuple[int, int] = (0, 1)) -> dict[Cell, Record]:
    """Run what is missing of every ``shard[1]``-th cell from ``shard[0]`` on; returns all records
    that are there in the end."""
    make_folder(out / "cells")
    records = finished(grid, out)
    mine = grid.cells[shard[0] :: shard[1]]
    todo = [cell for cell in mine if cell not in records]
    if len(mine) > len(todo):
        log.info("%d of %d cells are there already.", len(mine) - len(todo), len(mine))
    for cell in {(c.method, c.scale): c for c in todo}.values():
        grid.config(cell)  # what is wrong with any of them is told before the first one runs
    progress = Progress(grid, {c: r for c, r in records.items() if c in mine}, todo)
    with teachers_loaded_once(), progress.shown(), _quiet_host():
        for cell in todo:
            progress.start(cell)
            records[cell] = run_cell(grid, cell, out, progress)
            progress.finish(cell, records[cell])
    return records


def run_cell(grid: Grid, cell: Cell, out: Path, progress: "Progress") -> Record:
    """Optimise and measure one cell; its picture and then its record are written."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        outcome = train(grid.config(cell), Path(scratch), progress.step)
    save_picture(picture_path(out, cell), outcome.images)
    record = {
        **{"method": cell.method, "scale": cell.scale, "prompt": cell.prompt, "seed": cell.seed},
        "run_scale": grid.run_scale(cell.method, cell.scale),
        "effective_scale": grid.effective_scale(cell.method, cell.scale),
        "config_hash": grid.config_hash(cell),
        **measure.figures(outcome, cell.prompt),
        "seconds_in_all": round(time.perf_counter() - began, 2),
    }
    write_record(record_path(out, cell), record)
    return record


@contextmanager
def _quiet_host() -> Iterator[None]:
    """Warnings only: each training's own lines would bury the table."""
    level = log.logger.level
    log.quiet_lightning()
    log.logger.setLevel("WARNING")
    try:
        yield
    finally:
        log.logger.setLevel(level)


class Progress:
    """Methods x scales, cells done of all, and the time left; lines where there is no terminal."""

    def __init__(self, grid: Grid, done: dict[Cell, Record], todo: list[Cell]) -> None:
        self.grid, self.todo = grid, list(todo)
        self.total = len(done) + len(todo)
        self.counts: dict[tuple[str, float], int] = defaultdict(int)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        for cell, record in done.items():
            self.counts[cell.method, cell.scale] += 1
            self.seconds[cell.method].append(record["seconds_in_all"])
        self.now, self.steps_done, self.began = "", 0, time.monotonic()
        self.live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not log.console().is_terminal:
            yield
            return
        with Live(console=log.console(), get_renderable=self.table, refresh_per_second=2) as live:
            self.live = live
            yield

    def start(self, cell: Cell) -> None:
        self.now, self.steps_done, self.began = cell.name, 0, time.monotonic()

    def step(self, done: int) -> None:
        self.steps_done = done

    def finish(self, cell: Cell, record: Record) -> None:
        self.todo.remove(cell)
        self.counts[cell.method, cell.scale] += 1
        self.seconds[cell.method].append(record["seconds_in_all"])
        if self.live is None:
            log.console().print(
                f"{self.total - len(self.todo)}/{self.total} {cell.name}: "
                f"p {_mean(record['p_pair']):.2f}, {record['seconds_in_all']:.0f} s; {self.left()}",
                soft_wrap=True,
            )

    def seconds_left(self) -> float | None:
        """Sum over the cells to do of their method's mean time so far, or of all methods'."""
        known = [s for values in self.seconds.values() for s in values]
        if not known:
            return None
        per_cell = {m: _mean(self.seconds[m] or known) for m in self.grid.rows}
        elapsed = time.monotonic() - self.began if self.todo else 0.0
        return max(sum(per_cell[cell.method] for cell in self.todo) - elapsed, 0.0)

    def left(self) -> str:
        seconds = self.seconds_left()
        return "time left unknown" if seconds is None else f"{seconds / 60:.0f} min left"

    def table(self) -> Table:
        cells = len(self.grid.cfg.prompts) * len(self.grid.cfg.seeds)
        steps = f"step {self.steps_done}/{self.grid.cfg.steps}"
        table = Table(title=f"{self.left()}; {self.now}, {steps}")
        table.add_column("cells done")
        for scale in self.grid.cfg.scales:
            table.add_column(f"s {scale:g}", justify="right")
        for method in self.grid.rows:
            done = (self.counts[method, float(s)] for s in self.grid.cfg.scales)
            table.add_row(method, *(f"{n}/{cells}" for n in done))
        return table


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def require_complete(grid: Grid, records: dict[Cell, Record]) -> None:
    """UserError if no cell of the grid is there to report."""
    if not records:
        raise UserError("compare: no cell of this grid is there yet; run it without --page-only.")
