"""Networks on the CPU whose calls repeat: recorded once, then replayed without Python.

In a small network Python's part of a pass is a fifth, and it is the part that two threads cannot
share. A recording (``torch.jit.trace``) runs the same operations in the same order, hence to the
same bit, and lets both go. It is deprecated in favour of ``torch.compile``, which needs a compiler
on the user's machine and changes last bits; where it is not to be had any more, or where a
recording's first answer is not the network's, the network itself is called.
"""

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# A recording takes as long as it saves in some ten passes: only where more seem to come.
AFTER = 3
# Kinds of calls of one network that are recorded, at most.
MOST = 8

Function = Callable[..., Tensor | tuple[Tensor, ...]]


class Recorder:
    """The recorder of one network.

    Args:
        network: What is recorded. Weights that want gradients may change in place, the others and
            its structure may not change at all.
        trained: Whose weights may change in place, too, whether they want gradients or rest.
        tapped: Parts of it whose hooks are the calls' own: they are recorded.
    """

    def __init__(
        self,
        network: nn.Module,
        trained: nn.Module | None = None,
        tapped: Sequence[nn.Module] = (),
    ) -> None:
        self._network, self._trained, self._tapped = (network,), (trained,), tuple(tapped)
        self._calls: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, Function | None] = {}

    def of(self, call: Function, rows: Sequence[Tensor], state: Hashable = None) -> Function:
        """``call``, a function of the network and ``rows``, or its recording; of a tensor or a
        tuple of them.

        Args:
            rows: One piece of what it is about to be called with.
            state: What else its result depends on: one recording for each.
        """
        (network,) = self._network
        key = (state, *((x.shape, x.dtype, x.stride()) for x in rows))
        if not _repeatable(network, rows):
            return call
        if key not in self._recordings:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] < AFTER or len(self._recordings) == MOST:
                return call
            trained, tapped = self._trained[0], self._tapped
            self._recordings[key] = _record(network, call, rows, trained, tapped)
        return self._recordings[key] or call

    def forget(self, state: Hashable) -> None:
        """Drop the recordings in ``state``, whose parts of the network are gone."""
        for key in [key for key in self._recordings if key[0] == state]:
            del self._recordings[key], self._calls[key]


def _repeatable(network: nn.Module, rows: Sequence[Tensor]) -> bool:
    # Gradients in half precision are another matter: see critics.half.
    plain = all(x.device.type == "cpu" and x.dtype in (torch.float32, torch.int64) for x in rows)
    return plain and not (network._forward_hooks or network._forward_pre_hooks)


def _record(
    network: nn.Module,
    call: Function,
    rows: Sequence[Tensor],
    moving: nn.Module | None,
    tapped: Sequence[nn.Module],
) -> Function | None:
    """The recording, or None where there can be none."""
    others = [m for m in network.modules() if not any(m is part for part in tapped)]
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in others)
    if hooked or getattr(network, "is_gradient_checkpointing", False):
        return None
    rows = tuple(x.detach() for x in rows)
    # What is trained is an argument of the recording; all other weights are its constants.
    ours = set() if moving is None else set(map(id, moving.parameters()))
    parameters = network.named_parameters()
    trained = {name: p for name, p in parameters if p.requires_grad or id(p) in ours}

    def whole(*arguments: Tensor) -> Tensor | tuple[Tensor, ...]:
        with _in_place_of(trained, network, arguments[len(rows) :]):
            return call(*arguments[: len(rows)])

    # Few rows: while it records, everything that is computed stays in memory.
    example = *(x[:2] for x in rows), *(p.detach() for p in trained.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the deprecation, and of sizes taken for constants
        try:
            traced = torch.jit.trace(whole, example, check_trace=False)
        except (RuntimeError, ValueError, TypeError, AttributeError):
            return None

    def replay(*rows: Tensor) -> Tensor | tuple[Tensor, ...]:
        # Without the optimiser, which would change operations after some calls.
        with torch.jit.optimized_execution(False):
            return traced(*rows, *trained.values())

    with torch.no_grad():
        return replay if _equal(replay(*rows), call(*rows)) else None


def _equal(first: Tensor | tuple[Tensor, ...], second: Tensor | tuple[Tensor, ...]) -> bool:
    both = [x if isinstance(x, tuple) else (x,) for x in (first, second)]
    return all(torch.equal(a, b) for a, b in zip(*both, strict=True))


@contextmanager
def _in_place_of(names: Iterable[str], network: nn.Module, values: Sequence[Tensor]) -> Iterator:
    """``values`` as the parameters ``names``, within. (``torch.func.functional_call`` refuses to
    be recorded.)"""
    places = [name.rpartition(".") for name in names]
    homes = [(network.get_submodule(path)._parameters, leaf) for path, _, leaf in places]
    before = [home[leaf] for home, leaf in homes]
    try:
        for (home, leaf), value in zip(homes, values, strict=True):
            home[leaf] = value
        yield
    finally:
        for (home, leaf), value in zip(homes, before, strict=True):
            home[leaf] = value
