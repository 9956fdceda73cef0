"""Many runs of one model in one process: its files are read once."""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

_kept: ContextVar[dict[Any, Any] | None] = ContextVar("kept", default=None)


@contextmanager
def models_read_once() -> Iterator[None]:
    """Within it, a function marked :func:`read_once` reads each model once and returns copies.

    Copies, because a critic leaves its adapter on the UNet that it was given. The originals are
    held in memory until the end; the state of torch's random generators does not tell the first
    reading from the next.
    """
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def read_once(load: Callable[P, T]) -> Callable[P, T]:
    """Decorator of a function that reads a model; its arguments are hashable and name the model.

    Outside of :func:`models_read_once` the function is what it was.
    """

    @functools.wraps(load)
    def reader(*args: P.args, **kwargs: P.kwargs) -> T:
        kept = _kept.get()
        if kept is None:
            return load(*args, **kwargs)
        key = (load, args, tuple(sorted(kwargs.items())))
        # Building a network draws random numbers before its weights are read; copying draws none.
        with torch.random.fork_rng():
            if key not in kept:
                kept[key] = load(*args, **kwargs)
            return copy.deepcopy(kept[key])

    return reader
