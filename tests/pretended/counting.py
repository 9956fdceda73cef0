"""Where a program waits for the device: counts by lines of ours."""

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import threestudio_asd

PACKAGE = Path(threestudio_asd.__file__).parent
HERE = str(Path(__file__).parent) + os.sep


class Tally(Counter):
    """Lines of ours ("threestudio_asd/...py:12") and how often the device was waited for there.

    Attributes:
        uploads: the same for copies from the CPU, for which CUDA waits, too, unless they are
            ``non_blocking`` from pinned memory.
        kinds: what waited at which line: (operation, line).
        operations: all operations by line, whether or not they wait.
        steps: a tally of each step of a training, from the start of its batch to the next one's,
            logging included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uploads: Counter = Counter()
        self.kinds: Counter = Counter()
        self.operations: Counter = Counter()
        self.steps: list[Tally] = []
        self._before: Tally | None = None

    def begin_step(self) -> None:
        """End the step that runs, if one does, and begin the next."""
        self.end_step()
        self._before = self._snapshot()

    def end_step(self) -> None:
        """What was counted since the step began is the step's."""
        if self._before is not None:
            now, before = self._snapshot(), self._before
            now.subtract(before)
            for name in ("uploads", "kinds", "operations"):
                setattr(now, name, getattr(now, name) - getattr(before, name))
            for line in [line for line, waits in now.items() if not waits]:
                del now[line]
            self.steps.append(now)
        self._before = None

    def _snapshot(self) -> "Tally":
        taken = Tally()
        taken.update(self)
        for name in ("uploads", "kinds", "operations"):
            setattr(taken, name, Counter(getattr(self, name)))
        return taken


#: Those that count now.
tallies: list[Tally] = []


@contextlib.contextmanager
def tally() -> Iterator[Tally]:
    """Count what the device is waited for, and all its operations, in every thread."""
    counts = Tally()
    tallies.append(counts)
    try:
        yield counts
    finally:
        tallies.remove(counts)


def line_of_ours() -> str:
    """The innermost line under ``threestudio_asd/`` that runs now; else the innermost of a test;
    in a thread of autograd without either, "backward"."""
    frame, root, of_tests = sys._getframe(1), str(PACKAGE), None
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(root):
            return f"{Path(file).relative_to(PACKAGE.parent)}:{frame.f_lineno}"
        if of_tests is None and not file.startswith(HERE) and "/tests/" in file:
            of_tests = f"tests/{file.rpartition('/tests/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return of_tests or "backward"


def count(kind: str, wait: bool = True) -> None:
    """What the device is waited for, or what is copied to it, is added to the tallies."""
    if tallies:
        line = line_of_ours()
        for counts in tallies:
            (counts if wait else counts.uploads)[line] += 1
            counts.kinds[kind, line] += 1


def count_operation() -> None:
    """An operation of the device is added to the tallies."""
    if tallies:
        line = line_of_ours()
        for counts in tallies:
            counts.operations[line] += 1
