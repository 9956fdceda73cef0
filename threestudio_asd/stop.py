"""Being stopped from outside: Ctrl-C (SIGINT), SIGTERM (schedulers, ``docker stop``, preemption),
SIGHUP (a closed terminal).

A command runs in :func:`heeded`, where SIGTERM and SIGHUP raise :class:`Stopped` wherever they
come; Ctrl-C raises KeyboardInterrupt, as ever. A loop that can save what it has runs in a
:class:`Watch`, which notes the first signal for the loop to see; the second one ends it at once.
What must not be left half done is done in :func:`held`.

All of them do nothing outside the main thread, where Python has no signals. SIGTERM and SIGHUP stay
ignored where they are when the block begins (``nohup``).
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from signal import Signals
from types import FrameType
from typing import Any

# Others than Ctrl-C: nobody is there to wait for what could follow. Not every system has SIGHUP.
ENDING = tuple(Signals[name] for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
SIGNALS = (Signals.SIGINT, *ENDING)
# `timeout`, make and a shell that loses its terminal signal a process and then its whole group: in
# milliseconds, where a scheduler or a person that insists takes longer.
SAME_STOP_SECONDS = 0.5


class Stopped(SystemExit):
    """A signal ended the work; the exit status is the conventional one, 128 + its number."""

    def __init__(self, signum: int) -> None:
        self.signum = Signals(signum)
        super().__init__(status(signum))

    def __str__(self) -> str:
        return f"stopped by {self.signum.name}"


def status(signum: int) -> int:
    """The exit status of a process that ``signum`` ended: 130, 143, 129."""
    return 128 + signum


def end(signum: int) -> None:
    """Raise what ends the process for ``signum``.

    Raises:
        KeyboardInterrupt: for SIGINT.
        Stopped: for the others.
    """
    if signum == Signals.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(signum)


class _Handlers:
    """While they are begun: ``first`` is called with the first of ``signals``, ``again`` with every
    later one, and what handled them before has a rest."""

    def __init__(
        self,
        signals: tuple[Signals, ...],
        first: Callable[[Signals], None],
        again: Callable[[Signals], None],
    ) -> None:
        self._signals, self._first, self._again = signals, first, again
        self._before: dict[Signals, Any] = {}
        self._last: float | None = None

    def begin(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in self._signals:
            before = signal.getsignal(signum)
            ignored = before is signal.SIG_IGN and signum in ENDING
            # None is a handler that Python did not set and could not put back.
            if before is not None and not ignored:
                self._before[signum] = signal.signal(signum, self._arrived)

    def end(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        drop_lost_streams()
        signum, now, last = Signals(number), time.monotonic(), self._last
        if last is not None and signum in ENDING and now - last < SAME_STOP_SECONDS:
            return
        self._last = now
        if last is None:
            self._first(signum)
        else:
            self._again(signum)


@contextlib.contextmanager
def heeded(signals: tuple[Signals, ...] = ENDING) -> Iterator[None]:
    """The first of ``signals`` raises Stopped in the block, Ctrl-C too if it is among them; a
    second one ends the process there."""
    came: list[Signals] = []

    def stop(signum: Signals) -> None:
        came.append(signum)
        raise Stopped(signum)

    handlers = _Handlers(signals, stop, lambda signum: os._exit(status(signum)))
    handlers.begin()
    try:
        yield
    except Exception as error:
        if came:  # it follows from the stop
            raise Stopped(came[0]) from error
        raise
    finally:
        handlers.end()


class Watch:
    """Notes the first signal, from ``begin`` to ``end`` or in a ``with`` block.

    The second signal raises Stopped, or KeyboardInterrupt if it is Ctrl-C.

    Args:
        told: called with the first signal, within its handler.
    """

    signum: Signals | None = None
    """The signal that came, if one did."""

    def __init__(self, told: Callable[[Signals], None] | None = None) -> None:
        self._told = told
        self._handlers = _Handlers(SIGNALS, self._note, end)

    def begin(self) -> None:
        self._handlers.begin()

    def end(self) -> None:
        self._handlers.end()

    def __enter__(self) -> "Watch":
        self.begin()
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def _note(self, signum: Signals) -> None:
        self.signum = signum
        if self._told is not None:
            # A handler may have come in between a write to the same stream, which refuses this one.
            with contextlib.suppress(OSError, RuntimeError):
                self._told(signum)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A signal that comes in the block takes effect at its end; a second one does at once."""
    watch = Watch()
    try:
        with watch:
            yield
    finally:
        if watch.signum is not None:
            signal.raise_signal(watch.signum)


def drop_lost_streams() -> None:
    """Point standard output and error to nowhere if their terminal or pipe is gone.

    Writing there would raise an error, in the middle of saving or at Python's exit, whose status
    that error would change.
    """
    if not hasattr(select, "poll"):  # Windows, which has no such signals either
        return
    streams = select.poll()
    for number in (1, 2):
        streams.register(number, 0)
    for number, event in streams.poll(0):
        if event & (select.POLLERR | select.POLLHUP):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
