"""How many operations of torch a training step makes on the CPU, by who causes them.

    python benchmarks/operations.py [--trainings NAME ...] [--steps 4] [OVERRIDE ...]

Trains the shipped tiny configs for a few steps, logging at every one, as benchmarks/waiting.py
does. An operation of a backward pass belongs to whoever made the operation that it differentiates.
Kernels of Warp are counted by their launches. On a GPU each operation is about one launch, so a
step that makes many is bound by Python.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training import Enough, train
from waiting import BARE, measured

#: The first of them with a frame on the stack is the cause: part of a file's path, a function.
CAUSES = (
    ("optimiser", "/torch/optim/", None),
    ("logging", "/logger_connector/", None),
    ("logging", "/pytorch_lightning/core/module.py", "log"),
    ("critic", "/threestudio_asd/critics/", None),
    ("encoder", "/threestudio_asd/teachers/diffusers.py", "encode"),
    ("teacher", "/threestudio_asd/teachers/", None),
    ("rendering", "/threestudio_asd/kernels/", None),
    ("rendering", "/threestudio_asd/scene/", None),
    ("rendering", "/threestudio_asd/studio/models/", None),
    ("cameras", "/threestudio_asd/studio/data/", None),
    ("combination", "/threestudio_asd/distill/", None),
    ("combination", "/threestudio_asd/guidance/", None),
    ("system", "/threestudio_asd/", "training_step"),
)
UNKNOWN = "trainer"


def cause(frame: FrameType | None) -> str:
    """Who of ``CAUSES`` is on the stack, within the step (which an optimiser may call)."""
    stack = []
    while frame is not None and frame.f_code.co_name != "closure":
        stack.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    for name, path, function in CAUSES:
        if any(path in file and function in (None, called) for file, called in stack):
            return name
    return UNKNOWN


class Operations(TorchDispatchMode):
    """Counts operations by cause; those that make no work (views, sizes) are none."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._made: dict[int, str] = {}  # a node of autograd, by its number -> its cause

    def note(self) -> None:
        node = torch._C._current_autograd_node()
        if node is None:
            who = cause(sys._getframe(2))
            self._made[torch.autograd._get_sequence_nr() - 1] = who
        else:
            who = self._made.get(node._sequence_nr(), UNKNOWN)
        self.found[who] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.note()
        return func(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """The operations of the block."""
    from threestudio_asd.kernels import _warp

    operations, wp = Operations(), _warp.warp()
    launch = wp.launch

    def counted_launch(*args: Any, **kwargs: Any) -> Any:
        operations.note()
        return launch(*args, **kwargs)

    with mock.patch.object(wp, "launch", counted_launch), operations:
        yield operations.found


def operations(config: str, *overrides: str, steps: int, warm: int = 3) -> dict[str, float]:
    """Operations per step of a training of ``config`` by cause: averages over ``steps`` steps
    after ``warm``."""
    from threestudio_asd.teachers import recorded

    recorded.AFTER = math.inf  # a recording on the CPU hides its operations
    per_step: dict[str, float] = {}
    block = counted()
    found: Counter[str] = Counter()

    def on_step(step: int) -> None:
        nonlocal found
        if step == warm:
            found = block.__enter__()
        elif step == warm + steps:
            block.__exit__(None, None, None)
            per_step.update({name: n / steps for name, n in found.most_common()})
            raise Enough

    train(on_step, *BARE, f"trainer.max_steps={warm + steps + 1}", *overrides, config=config)
    return per_step


def main() -> None:
    for name, found in measured(operations, __doc__, steps=4).items():
        print(f"\n{name}: {sum(found.values()):.0f} operations per step")
        for who, count in found.items():
            print(f"  {count:7.1f}  {who}")


if __name__ == "__main__":
    main()
