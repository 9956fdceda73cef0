"""How far a grid is, and how long it will take."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.table import Table

from threestudio_asd import log
from threestudio_asd.compare.grid import Cell, Grid
from threestudio_asd.compare.records import Record


class Progress:
    """Methods x scales, cells done of all, and the time left; lines where there is no terminal.

    Args:
        done, todo: The cells that are there, and those that will be run.
        jobs: How many run at the same time.
    """

    def __init__(self, grid: Grid, done: dict[Cell, Record], todo: list[Cell], jobs: int) -> None:
        self.grid, self.todo, self.jobs = grid, list(todo), jobs
        self.total = len(done) + len(todo)
        self.all = [*done, *todo]
        self.counts: dict[tuple[str, float], int] = defaultdict(int)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        for cell, record in done.items():
            self.counts[cell.method, cell.scale] += 1
            self.seconds[cell.method].append(record["seconds_in_all"])
        self.now, self.last = "", time.monotonic()
        self.live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not log.console().is_terminal:
            yield
            return
        with Live(console=log.console(), get_renderable=self.table, refresh_per_second=2) as live:
            self.live = live
            yield

    def step(self, cell: Cell, done: int) -> None:
        """Where the one running cell is; unknown with several jobs."""
        self.now = f"; {cell.name}, step {done}/{self.grid.steps(cell.method)}"

    def finish(self, cell: Cell, record: Record) -> None:
        self.todo.remove(cell)
        self.counts[cell.method, cell.scale] += 1
        self.seconds[cell.method].append(record["seconds_in_all"])
        self.last = time.monotonic()
        if self.live is None:
            log.console().print(
                f"{self.total - len(self.todo)}/{self.total} {cell.name}: "
                f"p {_mean(record['p_pair']):.2f}, {record['seconds_in_all']:.0f} s; {self.left()}",
                soft_wrap=True,
            )

    def seconds_left(self) -> float | None:
        """Sum over the cells to do of their method's mean time so far, or of all methods', shared
        by the jobs; less what passed since a cell ended."""
        known = [s for values in self.seconds.values() for s in values]
        if not known:
            return None
        per_cell = {m: _mean(self.seconds[m] or known) for m in self.grid.rows}
        elapsed = time.monotonic() - self.last if self.todo else 0.0
        return max(sum(per_cell[c.method] for c in self.todo) / self.jobs - elapsed, 0.0)

    def left(self) -> str:
        seconds = self.seconds_left()
        return "time left unknown" if seconds is None else f"{seconds / 60:.0f} min left"

    def table(self) -> Table:
        title = f"{self.total - len(self.todo)} of {self.total}; {self.left()}{self.now}"
        table = Table(title=title)
        table.add_column("cells done")
        for scale in self.grid.scales:
            table.add_column("own s" if scale is None else f"s {scale:g}", justify="right")
        for method, row in self.grid.rows.items():
            scales = [s if row.scale is None else row.scale for s in self.grid.scales]
            of = [sum((c.method, c.scale) == (method, s) for c in self.all) for s in scales]
            done = [self.counts[method, s] for s in scales]
            table.add_row(method, *(f"{n}/{m}" for n, m in zip(done, of, strict=True)))
        return table


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
