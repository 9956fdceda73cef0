"""``compare``: run methods over scales, prompts and seeds; write a page with the figures."""

import argparse
import contextlib
import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threestudio_asd import log
from threestudio_asd.compare.run.pool import Pool
from threestudio_asd.cores import cores
from threestudio_asd.errors import UserError
from threestudio_asd.stop import SIGNALS, Stopped, drop_lost_streams, heeded

_EARLY = 4  # processes at most that are started before it is known how many are wanted


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="threestudio-asd compare", description=__doc__, allow_abbrev=False
    )
    p.add_argument(
        "--config", default="compare/2d", help="a grid: compare/2d, compare/nerf, a path"
    )
    p.add_argument("--out", type=Path, help="default: outputs/compare/<name of the config>")
    p.add_argument("--methods", nargs="+", help="these of the config's methods")
    p.add_argument("--scales", nargs="+", type=float)
    p.add_argument("--prompts", nargs="+")
    p.add_argument("--seeds", nargs="+", type=int)
    p.add_argument("--steps", type=int, help="of each cell")
    p.add_argument("--jobs", type=int, help="cells at the same time; default: one per core")
    p.add_argument("--shard", default="1/1", help="K/N: every N-th cell, for N machines")
    p.add_argument("--page-only", action="store_true", help="the page of the cells that are there")
    p.add_argument(
        "--pack",
        action="store_true",
        help="run nothing; put the cells that are there into a few files, and write the page",
    )
    p.add_argument("--verbose", action="store_true", help="debug messages, tracebacks")
    return p


def main(argv: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Run what is missing of the grid, then write the page.

    Returns:
        0; 1 if cells are missing because their processes were killed; 128 + n if signal n stopped
        it.
    """
    args = parser().parse_args(list(argv))
    log.setup_logging(args.verbose)
    shard = _shard(args.shard)
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: at least 1.")
    with _processes(args) as pool:
        return _run(args, argv, shard, plugins, pool)


def _run(
    args: argparse.Namespace,
    argv: Sequence[str],
    shard: tuple[int, int],
    plugins: Sequence[str],
    pool: Pool | None,
) -> int:
    from threestudio_asd.studio.run.extensions import load_extensions
    from threestudio_asd.studio.run.launch import BUILTINS

    plugins = (*BUILTINS, *plugins)
    for module in plugins:
        importlib.import_module(module)
    load_extensions()
    from threestudio_asd.compare.archive import INDEX, pack
    from threestudio_asd.compare.grid import load_grid
    from threestudio_asd.compare.records import finished
    from threestudio_asd.compare.run.lost import CellsLost
    from threestudio_asd.compare.run.runner import default_jobs, run_grid
    from threestudio_asd.studio.device import prepare_cpu

    flags = {key: getattr(args, key) for key in ("scales", "prompts", "seeds", "steps")}
    grid = load_grid(args.config, methods=args.methods, **flags)
    out = args.out or Path("outputs/compare") / Path(args.config).stem
    command = shlex.join(["threestudio-asd", "compare", *argv])
    prepare_cpu()
    try:
        if args.pack:
            print(f"{pack(out)} cells are in {out / INDEX} and beside it.")
        elif not args.page_only:
            # Ctrl-C, too: Lightning would turn its exception into an exit of its own.
            with heeded(SIGNALS):
                run_grid(grid, out, shard, args.jobs or default_jobs(), plugins, pool)
    except Stopped as stopped:
        there = f"{len(finished(grid, out))} of {len(grid.cells)} cells are there"
        drop_lost_streams()
        print(f"{stopped}: {there}; the same command goes on.", file=sys.stderr)
        return stopped.code
    except CellsLost as lost:
        if finished(grid, out):
            _report(grid, out, command)
        print(f"error: {lost}", file=sys.stderr)
        return 1
    _report(grid, out, command)
    return 0


def _processes(args: argparse.Namespace) -> contextlib.AbstractContextManager[Pool | None]:
    """Processes for cells that import torch and the rest while this one does, a few of them: how
    many cells there are to run is not known yet. None where there may be a GPU, on which cells run
    one by one unless --jobs says otherwise."""
    gpu = Path("/proc/driver/nvidia").exists()
    jobs = min(args.jobs or (1 if gpu else cores()), _EARLY)
    if args.pack or args.page_only or jobs == 1:
        return contextlib.nullcontext()
    pool = Pool(jobs, imports=("threestudio_asd.compare.run.runner",))
    pool.start()
    return pool


def _report(grid: Any, out: Path, command: str) -> None:
    from threestudio_asd.compare.measure import reference
    from threestudio_asd.compare.records import finished
    from threestudio_asd.compare.report.markdown import write_tables
    from threestudio_asd.compare.report.page import write_page
    from threestudio_asd.compare.report.summary import Summary
    from threestudio_asd.compare.run.runner import require_complete

    records = finished(grid, out)  # with those of other processes
    require_complete(grid, records)
    summary = Summary(grid, records, reference.place().folder())
    page = write_page(grid, summary, out, [command])
    print(f"{write_tables(grid, summary, out)}\n{page}")


def _shard(text: str) -> tuple[int, int]:
    first, _, count = text.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise UserError(f"--shard {text}: give K/N with 1 <= K <= N, such as 1/2.")
    return int(first) - 1, int(count)
