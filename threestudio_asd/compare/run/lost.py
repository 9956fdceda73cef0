"""Cells whose process was killed: run again once, with fewer at a time if memory ran short."""

import signal
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from threestudio_asd import log
from threestudio_asd.compare.grid import Cell
from threestudio_asd.compare.run.pool import Loss, Pool
from threestudio_asd.errors import UserError


class CellsLost(UserError):
    """Cells that are not there because their processes were killed, twice each.

    Args:
        lost: With how the second process ended.
        not_begun: The cells that start from them.
    """

    def __init__(self, lost: Mapping[Cell, Loss], not_begun: Sequence[Cell]) -> None:
        cells = "; ".join(f"{cell.name}: {describe(loss)}" for cell, loss in lost.items())
        text = f"compare: {_count(lost)} missing, killed twice ({cells})"
        if not_begun:
            text += f", and {_count(not_begun)} to start from there"
        text += ". The same command goes on from the others; "
        if any(loss.memory_short for loss in lost.values()):
            text += "try --jobs 1, which needs the least memory, or a machine with more of it."
        else:
            text += "--jobs 1 runs them in its own process, which shows what ends it."
        super().__init__(text)


def run_again(pool: Pool, cells: Sequence[Any]) -> Iterator[tuple[Cell, Any]]:
    """Each of ``cells`` (what has a ``name``) with its result, or with a :class:`Loss` if its
    process died twice.

    Where memory ran short, one fewer runs at a time from then on, and the second tries run one by
    one after all others.
    """
    again: list[Cell] = []
    alone = False
    for cell, found in pool.run(cells):
        if not isinstance(found, Loss):
            yield cell, found
            continue
        again.append(cell)
        text = f"{cell.name}: {describe(found)}. It is run again after the others"
        if found.memory_short:
            alone, pool.jobs = True, max(1, pool.jobs - 1)
            text += f", alone; {pool.jobs} at a time from now on"
        log.warn("%s.", text)
    jobs = pool.jobs
    pool.jobs = 1 if alone else jobs
    yield from pool.run(again)
    pool.jobs = jobs


def describe(loss: Loss) -> str:
    if loss.memory_short:
        cause = "killed because memory ran short"
    elif loss.exitcode < 0:
        cause = f"killed by {signal.Signals(-loss.exitcode).name}"
    else:
        cause = f"ended with exit status {loss.exitcode}"
    if loss.peak_mb is None:
        return cause
    return f"{cause}, at {loss.peak_mb:.0f} MB or more"


def _count(cells: Collection[Any]) -> str:
    return f"{len(cells)} cell{'s' * (len(cells) != 1)}"
