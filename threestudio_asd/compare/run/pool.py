"""Processes that run one task after another; one that dies costs the task it ran and no other.

(The pools of ``concurrent.futures`` and ``loky`` give up all their tasks when a process dies.)
Only the standard library is imported here: a new process watches its parent and is deaf to Ctrl-C
before it imports anything that takes time.
"""

import contextlib
import importlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from threestudio_asd.compare.run import memory
from threestudio_asd.stop import SIGNALS

_SAMPLE = 1.0  # seconds between two looks at the processes' memory
_PATIENCE = 5.0  # seconds that an idle process has to end by itself


@dataclass(frozen=True)
class Loss:
    """How the process of a task ended.

    Args:
        exitcode: as ``multiprocessing`` counts it: -9 is signal 9.
        memory_short: it was killed, and for want of memory as far as the system tells.
        peak_mb: the most memory (MiB) that it was seen to hold, looked at once a second; None if
            it was never seen.
    """

    exitcode: int
    memory_short: bool
    peak_mb: float | None


@dataclass(frozen=True)
class _Failure:
    """An exception on its way from a process, with its traceback there."""

    error: BaseException
    trace: str


class _InProcess(Exception):
    """Shows the traceback of the process in that of its parent."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


@dataclass(eq=False)
class _Worker:
    process: Any
    connection: Connection
    begun: bool = False
    busy: bool = False
    task: Any = None
    peak_mb: float | None = None

    def give(self, task: Any) -> None:
        self.task, self.busy, self.peak_mb = task, True, None
        self.send(task)

    def send(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # it has just died: its end is seen in a moment
            self.connection.send(message)

    def sample(self) -> None:
        found = memory.peak_mb(self.process.pid) if self.busy else None
        if found is not None:
            self.peak_mb = max(found, self.peak_mb or 0.0)


class Pool:
    """Up to ``jobs`` processes at a time; a context manager, at whose end they end: those that
    are still busy, because an exception left the block, are killed.

    They end with their parent, whatever ends it, and leave Ctrl-C and a closed terminal to it.

    Args:
        jobs: May be lowered later; a process that is too many ends once it is idle, and its
            memory is free.
        begin: Called in each new process; returns the function of a task. Both are pickled. None:
            :meth:`begin` says it later.
        imports: Modules that a new process imports before it is told anything else.
    """

    def __init__(
        self,
        jobs: int,
        begin: Callable[..., Callable] | None = None,
        arguments: Sequence[Any] = (),
        imports: Sequence[str] = (),
    ) -> None:
        self.jobs = jobs
        self._first = None if begin is None else (begin, tuple(arguments))
        self._imports = tuple(imports)
        self._workers: list[_Worker] = []
        self._oom_kills = memory.oom_kills()
        self._sampled = 0.0

    def start(self) -> None:
        """Start the processes now rather than with their first tasks: they import while this one
        does something else."""
        while len(self._workers) < self.jobs:
            self._start()

    def begin(self, begin: Callable[..., Callable], arguments: Sequence[Any]) -> None:
        """Say what the processes begin with, those that are there and those to come."""
        self._first = begin, tuple(arguments)
        for worker in self._workers:
            worker.send(self._first)

    def end(self) -> None:
        """End all processes; those that are busy are killed."""
        self._end(*self._workers)

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yields each task with its result, or with a :class:`Loss` if its process died.

        Raises:
            What a task or ``begin`` raises, the first of them, after the results of the tasks that
            ran beside it; no other task is begun.
            RuntimeError: processes cannot begin at all.
        """
        waiting, failures = deque(tasks), []
        while waiting or any(w.busy for w in self._workers):
            self._hand_out(waiting)
            for worker in self._wait():
                task, was_busy = worker.task, worker.busy
                heard = self._hear(worker)
                if isinstance(heard, _Failure):
                    failures.append(heard)
                    waiting.clear()
                elif was_busy and not worker.busy:
                    yield task, heard
        if failures:
            raise failures[0].error from _InProcess(failures[0].trace)

    def _hand_out(self, waiting: deque) -> None:
        for worker in [w for w in self._workers if not w.process.is_alive()]:
            if not worker.busy:
                self._bury(worker)
        idle = [w for w in self._workers if not w.busy]
        while idle and len(self._workers) > self.jobs:
            self._end(idle.pop())
        while waiting and len(self._workers) - len(idle) < self.jobs:
            worker = idle.pop() if idle else self._start()
            worker.give(waiting.popleft())

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork would share threads and CUDA
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there,))
        with _inherited_deafness():
            process.start()
            worker = _Worker(process, here)
            self._workers.append(worker)
        there.close()
        worker.send(self._imports)
        if self._first is not None:
            worker.send(self._first)
        return worker

    def _wait(self) -> list[_Worker]:
        """Workers that reported or died; empty when it is time to look at their memory."""
        of = {w.connection: w for w in self._workers}
        of |= {w.process.sentinel: w for w in self._workers}
        ready = wait(list(of), timeout=_SAMPLE)
        if time.monotonic() - self._sampled >= _SAMPLE:
            self._sampled = time.monotonic()
            for worker in self._workers:
                worker.sample()
        return list(dict.fromkeys(of[x] for x in ready))

    def _hear(self, worker: _Worker) -> Any:
        """The result of its task, or how that ended; None if it has only begun or was idle."""
        try:
            if not worker.connection.poll():
                raise EOFError
            heard = worker.connection.recv()
        except (EOFError, OSError):
            return self._bury(worker)
        if worker.begun or isinstance(heard, _Failure):
            worker.busy = False
        worker.begun = True
        return heard

    def _bury(self, worker: _Worker) -> Loss | None:
        worker.process.join()
        exitcode, lost = worker.process.exitcode, worker.busy
        worker.busy = False
        self._end(worker)
        short = exitcode == -signal.SIGKILL and self._memory_ran_short()
        if not worker.begun and exitcode >= 0:
            raise RuntimeError(
                f"a process of --jobs ended before its first task (exit status {exitcode}); "
                "what it printed stands above, and --jobs 1 needs no processes."
            )
        return Loss(exitcode, short, worker.peak_mb) if lost else None

    def _memory_ran_short(self) -> bool:
        """Whether the kernel has counted another kill; yes where it does not tell."""
        now = memory.oom_kills()
        if now is None or self._oom_kills is None:
            return True
        if now > self._oom_kills:
            self._oom_kills += 1  # one for each: others may have been killed at the same time
            return True
        return False

    def _end(self, *workers: _Worker) -> None:
        for worker in workers:
            self._workers.remove(worker)
            worker.connection.close()  # what an idle one waits for
            if worker.busy or not worker.begun:
                worker.process.kill()
        for worker in workers:
            worker.process.join(_PATIENCE)
            worker.process.kill()
            worker.process.join()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: Any) -> None:
        self.end()


@contextlib.contextmanager
def _inherited_deafness() -> Iterator[None]:
    """What is started within never hears of signals that stop the parent, who will end it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start, inside of the first process's, would undo this
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection) -> None:
    """In a new process: its life."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Lightning would replace the default by an end after the current step.
    signal.signal(signal.SIGTERM, _end_by)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    function = None
    with contextlib.suppress(EOFError, OSError):  # the parent has closed the connection
        try:
            for module in pickle.loads(connection.recv_bytes()):
                importlib.import_module(module)
        except EOFError:
            raise
        except BaseException as error:
            connection.send(_failure(error))
        while True:
            message = connection.recv_bytes()
            try:
                if function is None:
                    begin, arguments = pickle.loads(message)
                    function, result = begin(*arguments), None
                else:
                    result = function(pickle.loads(message))
            except BaseException as error:
                result = _failure(error)
            connection.send(result)


def _end_by(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _failure(error: BaseException) -> _Failure:
    trace = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does there
        error = RuntimeError("".join(traceback.format_exception_only(error)).strip())
    return _Failure(error, trace)
