"""Signals that ask a process to stop, as an exception of the main thread."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Windows has no SIGHUP.
STOPS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


class Stopped(BaseException):
    """The process was asked to stop. ``status``: what a shell calls that exit status.

    No KeyboardInterrupt: Lightning turns these into an exit of its own.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """Within it SIGTERM, SIGHUP (a closed terminal) and Ctrl-C raise :class:`Stopped`; one more of
    them ends the process at once.

    What is ignored stays ignored, as under nohup. In other threads than the main one, to which
    Python delivers signals, nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        raise Stopped(number)

    before: dict[int, Any] = {}
    try:
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
        yield
    except Exception as error:
        # It follows from the stop, such as writing to the closed terminal.
        if received:
            raise Stopped(received[0]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
