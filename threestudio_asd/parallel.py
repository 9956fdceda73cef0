"""Pieces of a batch on the CPU, each in a thread of its own, forward and backward.

torch's own threads share every operation and wait, spinning, for each other at its end: nothing
where both cores are free, a time slice of the system where they are not. Here threads share the
*batch* instead: each takes a piece of it through many operations, on one torch thread, and they
meet at the end alone.

The number of pieces belongs to the experiment, the number of threads to the machine. Results depend
on the first alone, to the last bit: a piece is computed alike by whichever thread, and what pieces
have in common is added in their order.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from threestudio_asd.cores import cores
from threestudio_asd.errors import UserError

Output = Tensor | dict[str, Tensor]

_pieces = 1  # until an experiment says otherwise
_threads: int | None = None
_pool: tuple[int, ThreadPoolExecutor] | None = None  # with its size
_pool_lock = threading.Lock()
_this_thread = threading.local()


def get_pieces() -> int:
    """Into how many pieces a batch is split."""
    return _pieces


def set_pieces(count: int) -> None:
    """Split batches into ``count`` pieces from now on, or one for each row if these are fewer.

    Results depend on it in their last digits. Raises UserError below 1.
    """
    global _pieces
    if count < 1:
        raise UserError(f"pieces={count}: a batch has at least one piece.")
    _pieces = count


def get_threads() -> int:
    """How many pieces are computed at the same time."""
    return min(_pieces, cores() if _threads is None else _threads)


def set_threads(count: int | None) -> None:
    """Compute at most ``count`` pieces at the same time; None: as many as there are cores."""
    global _threads
    _threads = count


@contextlib.contextmanager
def splitting(pieces: int | None = None, threads: int | None = None) -> Iterator[None]:
    """The given settings within, those of before afterwards; None leaves one as it is."""
    before = _pieces, _threads
    try:
        if pieces is not None:
            set_pieces(pieces)
        if threads is not None:
            set_threads(threads)
        yield
    finally:
        set_pieces(before[0])
        set_threads(before[1])


def map_batch(
    function: Callable[..., Output],
    *batched: Tensor | None,
    common: Sequence[Tensor] = (),
    parameters: Iterable[Tensor] = (),
) -> Output:
    """``function(*batched, *common)``, piece by piece.

    ``function`` must treat rows independently of each other and draw no random numbers. On other
    devices than the CPU, for a single row, and within another map it is called as it is.

    Args:
        function: Takes a piece of each of ``batched``, then all of ``common``; returns a tensor or
            a dictionary of tensors, which are joined along their first dimension, of any length.
        batched: Split along the first dimension, one row per item; None stays None.
        common: What was computed before and every piece needs whole; a gradient is the pieces' sum.
        parameters: What else ``function`` reads and gradients are wanted of: leaves of the graph.

    Raises:
        What ``function`` raises, with its own traceback, once no piece is running any more; of
        several errors the first piece's. Second derivatives through the map are refused.
    """
    count = _count(batched)
    if count < 2:
        return function(*batched, *common)
    keys: list[str] = []

    def flat(*arguments: Tensor | None) -> tuple[Tensor, ...]:
        output = function(*arguments)
        if isinstance(output, Tensor):
            return (output,)
        keys[:] = output
        return tuple(output.values())

    parameters = tuple(parameters) if torch.is_grad_enabled() else ()
    arguments = (*batched, *common, *parameters)
    if torch.is_grad_enabled() and any(map(_wants_gradient, arguments)):
        joined = _Map.apply(flat, count, len(batched), len(common), *arguments)
    else:
        found = _at_once([(flat, (*piece, *common)) for piece in _split(batched, count)])
        joined = _joined(found)
    return dict(zip(keys, joined, strict=True)) if keys else joined[0]


def largest_piece(*batched: Tensor) -> tuple[Tensor, ...]:
    """The first of the pieces that :func:`map_batch` makes of ``batched``."""
    return _split(batched, _count(batched))[0]


def trained(*modules: torch.nn.Module) -> Iterator[Tensor]:
    """The modules' parameters that want gradients: ``parameters`` of a function that calls them."""
    for module in modules:
        yield from filter(_wants_gradient, module.parameters())


class _Map(Function):
    """A graph per piece, from copies of its arguments (their storage is shared) and from the
    parameters to its outputs; the backward pass takes each in a thread, too."""

    @staticmethod
    def forward(
        ctx: Any, flat: Callable, count: int, rows: int, common: int, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.rows, batched, whole = rows, tensors[:rows], tensors[rows : rows + common]
        ctx.parameters = tensors[rows + common :]
        wanted = [_wants_gradient(x) for x in (*batched, *whole)]
        ctx.pieces = [
            [
                x.detach().requires_grad_() if w else x
                for x, w in zip((*piece, *whole), wanted, strict=True)
            ]
            for piece in _split(batched, count)
        ]
        with torch.enable_grad():
            found = _at_once([(flat, piece) for piece in ctx.pieces])
        # Saved rather than kept: autograd then frees the pieces' graphs when it frees its own.
        ctx.save_for_backward(*(x for outputs in found for x in outputs))
        ctx.set_materialize_grads(False)
        ctx.lengths = [[len(x) for x in column] for column in zip(*found, strict=True)]
        joined = _joined(found)
        constant = [not any(map(_wants_gradient, column)) for column in zip(*found, strict=True)]
        ctx.mark_non_differentiable(*(x for x, c in zip(joined, constant, strict=True) if c))
        return joined

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError(
                "Gradients of gradients through the pieces of a batch are not implemented: set"
                " pieces=1, or differentiate within a piece."
            )
        count, width, saved = len(ctx.pieces), len(grads), ctx.saved_tensors
        needed = ctx.needs_input_grad[4:]
        columns = [
            [None] * count if grad is None else grad.split(lengths)
            for grad, lengths in zip(grads, ctx.lengths, strict=True)
        ]
        keep, jobs = _keeps_graph(), []
        for k, piece in enumerate(ctx.pieces):
            pairs = zip((*piece, *ctx.parameters), needed, strict=True)
            inputs = [x for x, need in pairs if need]
            outputs = saved[k * width : (k + 1) * width]
            given = [column[k] for column in columns]
            jobs.append((_gradients, (outputs, inputs, given, keep)))
        found = iter(zip(*_at_once(jobs), strict=True))
        gradients: list[Tensor | None] = []
        for i, need in enumerate(needed):
            column = next(found) if need else ()
            if need and i < ctx.rows:
                gradients.append(torch.cat(_filled(column, [piece[i] for piece in ctx.pieces])))
            else:
                gradients.append(_sum(column))
        return None, None, None, None, *gradients


def _count(batched: Sequence[Tensor | None]) -> int:
    """How many pieces."""
    if batched[0].device.type != "cpu" or getattr(_this_thread, "in_piece", False):
        return 1
    return max(1, min(_pieces, len(batched[0])))


def _wants_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _split(batched: Sequence[Tensor | None], count: int) -> list[tuple[Tensor | None, ...]]:
    columns = [[None] * count if x is None else x.tensor_split(count) for x in batched]
    return list(zip(*columns, strict=True))


def _joined(found: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """Each output of all pieces as one tensor, without their graphs."""
    return tuple(torch.cat([x.detach() for x in column]) for column in zip(*found, strict=True))


def _keeps_graph() -> bool:
    """Whether the backward pass that runs now was asked to retain its graph."""
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
    return asked()


def _gradients(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    keep: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of one piece."""
    pairs = zip(outputs, grads, strict=True)
    given = [(x, grad) for x, grad in pairs if grad is not None and x.requires_grad]
    if not given:
        return (None,) * len(inputs)
    of, grads = zip(*given, strict=True)
    return torch.autograd.grad(of, inputs, grads, retain_graph=keep, allow_unused=True)


def _filled(column: Sequence[Tensor | None], pieces: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of one batched tensor by pieces; zero where a piece did not use it."""
    pairs = zip(column, pieces, strict=True)
    return [torch.zeros_like(piece) if grad is None else grad for grad, piece in pairs]


def _sum(column: Sequence[Tensor | None]) -> Tensor | None:
    """In the order of the pieces."""
    found = [grad for grad in column if grad is not None]
    return sum(found[1:], found[0]) if found else None


def _at_once(jobs: Sequence[tuple[Callable[..., Any], Sequence[Any]]]) -> list[Any]:
    """Results of the jobs (function, arguments), in their order, under this thread's modes."""
    grad = torch.is_grad_enabled()
    autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def begin(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        enabled, dtype = autocast
        # Without autocast's cache: a weight's copy would join the graphs of two pieces.
        precision = torch.autocast("cpu", dtype, enabled, cache_enabled=False)
        with torch.set_grad_enabled(grad), precision:
            return function(*arguments)

    pool = _workers()
    futures = [pool.submit(begin, *job) for job in jobs]
    wait(futures)
    return [future.result() for future in futures]


def at_once(jobs: Sequence[tuple[Callable[..., Any], Sequence[Any]]]) -> list[Any]:
    """Results of independent jobs (function, arguments) on the CPU, in their order and those of a
    loop to the bit, as many at a time as there are cores. Raises what the first that fails raises,
    once none is running any more."""
    if len(jobs) < 2 or getattr(_this_thread, "in_piece", False):
        return [function(*arguments) for function, arguments in jobs]
    with splitting(pieces=len(jobs)):
        return _at_once(jobs)


def _workers() -> ThreadPoolExecutor:
    """The threads that compute pieces: as many as :func:`get_threads` says now."""
    global _pool
    with _pool_lock:
        count = get_threads()
        if _pool is not None and _pool[0] != count:
            _pool[1].shutdown()
            _pool = None
        if _pool is None:
            _pool = count, ThreadPoolExecutor(count, "pieces", _begin_thread)
        return _pool[1]


def _begin_thread() -> None:
    torch.set_num_threads(1)
    _this_thread.in_piece = True


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_forget_pool)
