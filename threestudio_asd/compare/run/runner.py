"""Through the grid: skip the cells that are there, run the others."""

import functools
import importlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from threestudio_asd import homes, log, parallel
from threestudio_asd.compare.grid import Cell, Grid
from threestudio_asd.compare.measure import figures
from threestudio_asd.compare.records import (
    Record,
    cell_file,
    finished,
    save_mesh,
    save_picture,
    save_turntable,
    write_record,
)
from threestudio_asd.compare.run import machine
from threestudio_asd.compare.run.lost import CellsLost, run_again
from threestudio_asd.compare.run.pool import Loss, Pool
from threestudio_asd.compare.run.progress import Progress
from threestudio_asd.compare.run.train import Outcome, train
from threestudio_asd.cores import cores
from threestudio_asd.errors import UserError
from threestudio_asd.files import make_folder
from threestudio_asd.studio.checkpoint.store import save_atomically
from threestudio_asd.studio.device import get_device, prepare_cpu
from threestudio_asd.studio.models.prompt_processor import cache as embeddings
from threestudio_asd.studio.run.extensions import load_extensions
from threestudio_asd.teachers.cache import models_read_once

OnStep = Callable[[Cell, int], None]


def default_jobs() -> int:
    """One for each core that this process may use: a cell is too small for two. On CUDA, one."""
    return 1 if get_device().type == "cuda" else cores()


def run_grid(
    grid: Grid,
    out: Path,
    shard: tuple[int, int] = (0, 1),
    jobs: int = 1,
    plugins: Sequence[str] = (),
    pool: Pool | None = None,
) -> dict[Cell, Record]:
    """Run what is missing of every ``shard[1]``-th cell from ``shard[0]`` on.

    Torch's own threads are set to one, as the figures were measured.

    Args:
        jobs: How many cells run at the same time, each in a process of its own if more than one.
        plugins: Modules that those processes import first, before the extensions in ``custom/``.
        pool: Processes that are there already; ended where one job is left.

    Returns:
        All records that are there in the end.

    Raises:
        CellsLost: The processes of some cells were killed, twice; all others are there.
    """
    prepare_cpu()
    load_extensions()
    make_folder(out / "cells", "use --out")
    records = finished(grid, out)
    mine = grid.cells[shard[0] :: shard[1]]
    todo = missing(grid, out, mine, records)
    if len(mine) > len(todo):
        log.info("%d of %d cells are there already.", len(mine) - len(todo), len(mine))
    for cell in {(c.method, c.scale): c for c in todo}.values():
        grid.config(cell)  # what is wrong with any of them is told before the first one runs
    jobs = max(1, min(jobs, len(todo)))
    done = {cell: record for cell, record in records.items() if cell in mine and cell not in todo}
    progress = Progress(grid, done, todo, jobs)
    # Those that others start from come first.
    first = [cell for cell in todo if grid.starts_others(cell)]
    rest = [cell for cell in todo if not grid.starts_others(cell)]
    lost: dict[Cell, Loss] = {}
    with progress.shown(), _cells(grid, out, jobs, plugins, progress, pool) as run:
        for phase in (first, rest):
            for cell, found in run([c for c in phase if grid.start(c) not in lost]):
                if isinstance(found, Loss):
                    lost[cell] = found
                else:
                    records[cell] = found
                    progress.finish(cell, found)
    if lost:
        raise CellsLost(lost, [c for c in rest if grid.start(c) in lost])
    return records


def missing(grid: Grid, out: Path, cells: list[Cell], records: dict[Cell, Record]) -> list[Cell]:
    """Those of ``cells`` that have no record, and what they start from if its weights are gone."""
    todo = [cell for cell in cells if cell not in records]
    starts = {start for cell in todo if (start := grid.start(cell)) is not None}
    again = [s for s in starts if not cell_file(out, s, "ckpt").is_file() and s not in todo]
    return [*sorted(again, key=lambda cell: cell.name), *todo]


def run_cell(
    grid: Grid, cell: Cell, out: Path, on_step: OnStep = lambda cell, step: None
) -> Record:
    """Optimise and measure one cell; its pictures and then its record are written."""
    began = time.perf_counter()
    start = grid.start(cell)
    cfg = grid.config(cell, weights=start and cell_file(out, start, "ckpt"))
    with homes.scratch() as scratch:
        outcome = train(cfg, scratch, lambda step: on_step(cell, step))
    _save_results(grid, cell, out, outcome)
    record = {
        **{"method": cell.method, "scale": cell.scale, "prompt": cell.prompt, "seed": cell.seed},
        "run_scale": grid.run_scale(cell.method, cell.scale),
        "effective_scale": grid.effective_scale(cell.method, cell.scale),
        "config_hash": grid.config_hash(cell),
        **figures.figures(outcome, cell.prompt),
        "machine": machine.describe(),
        "seconds_in_all": round(time.perf_counter() - began, 2),
    }
    write_record(cell_file(out, cell, "json"), record)
    return record


def _save_results(grid: Grid, cell: Cell, out: Path, outcome: Outcome) -> None:
    save_picture(cell_file(out, cell, "png"), outcome.images)
    if outcome.turntable is not None:
        save_turntable(cell_file(out, cell, "webp"), outcome.turntable)
    if outcome.mesh is not None and len(outcome.mesh.faces):
        save_mesh(cell_file(out, cell, "ply"), outcome.mesh)
    if grid.starts_others(cell):
        save_atomically(outcome.weights, cell_file(out, cell, "ckpt"))


RunCells = Callable[[list[Cell]], Iterator[tuple[Cell, Record | Loss]]]


@contextmanager
def _cells(
    grid: Grid,
    out: Path,
    jobs: int,
    plugins: Sequence[str],
    progress: Progress,
    pool: Pool | None,
) -> Iterator[RunCells]:
    """A function that runs cells and yields each with its record, in the order of their ends."""
    if jobs == 1:
        if pool is not None:
            pool.end()
        with models_read_once(), _quiet_host():
            yield lambda cells: ((c, run_cell(grid, c, out, progress.step)) for c in cells)
        return
    threads = max(1, cores() // jobs)
    # Each of the processes would warn.
    homes.settle_kernels()
    embeddings.place().folder()
    # The processes' temporary files lie in a folder of this one: killed ones leave theirs.
    with tempfile.TemporaryDirectory() as scratch:
        arguments = (threads, tuple(plugins), scratch, grid, out, dict(os.environ))
        with pool or Pool(jobs) as pool:
            pool.jobs = jobs
            pool.begin(_begin_worker, arguments)

            def run(cells: list[Cell]) -> Iterator[tuple[Cell, Record | Loss]]:
                for cell, found in run_again(pool, cells):
                    progress.jobs = pool.jobs
                    yield cell, found

            yield run


_worker = ExitStack()


def _begin_worker(
    threads: int,
    plugins: Sequence[str],
    scratch: str,
    grid: Grid,
    out: Path,
    environment: Mapping[str, str],
) -> Callable[[Cell], Record]:
    """In a new process: what runs a cell there."""
    tempfile.tempdir = scratch
    os.environ.update(environment)  # caches were settled after the process started
    prepare_cpu()
    parallel.set_threads(threads)
    log.setup_logging()
    for module in plugins:
        importlib.import_module(module)
    load_extensions()
    _worker.enter_context(models_read_once())
    _worker.enter_context(_quiet_host())
    return functools.partial(run_cell, grid, out=out)


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


def require_complete(grid: Grid, records: dict[Cell, Record]) -> None:
    """UserError if no cell of the grid is there to report."""
    if not records:
        raise UserError("compare: no cell of this grid is there yet; run it without --page-only.")
