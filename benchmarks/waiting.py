"""How often a training step makes the CPU wait for the device, by the line that does.

    python benchmarks/waiting.py [--trainings NeRF geometry texture 2D] [--steps 8] [OVERRIDE ...]

Trains the shipped tiny configs for a few steps, logging at every one (geometry and texture begin
with a sphere), and prints a table per training: waits per step by the innermost line of ours. On
CUDA PyTorch tells of them, of copies to the device from ordinary memory too (gpu_parts/waits.py).
On the CPU those operations are counted that would wait on CUDA: numbers and tensors taken to the
CPU, sizes that depend on data; and apart from them the copies to the device. Which tensors a CUDA
training has on the CPU is told there by their origin: they were made without naming a device,
copied by ``cpu()``, or computed from such.
"""

import argparse
import linecache
import math
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from gpu_parts.waits import origin, recorded_waits
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary
from training import Enough, train

SPHERE = (
    "system.geometry_convert_from=null",
    "system.geometry.shape_init=sphere",
    "system.geometry.shape_init_params=0.5",
)
BARE = (
    "trainer.log_every_n_steps=1",
    "trainer.val_check_interval=100000",
    "trainer.enable_progress_bar=false",
    "pieces=1",
)
#: Configs with their options.
TRAININGS = {
    "NeRF": ("tiny/asd-nerf", ()),
    "geometry": ("tiny/asd-geometry", SPHERE),
    "texture": ("tiny/asd-texture", SPHERE),
    "2D": ("tiny/asd-2d", ()),
}
COPY = "copy to the device: "

aten = torch.ops.aten
#: Operations that wait on CUDA, whatever their arguments.
WAITING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.equal.default,
    aten.bincount.default,
}
#: Operations that wait if an index is a mask (except to fill with one number).
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
TAKEN = {Tensor.cpu, Tensor.numpy, Tensor.tolist}
MOVED = {Tensor.to, Tensor.cuda}
MADE_ON_DEVICE = {torch.tensor, torch.as_tensor}


def _waits(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if operation in WAITING:
        return True
    if operation in INDEXED:
        if len(args) > 2 and args[2].dim() == 0:
            return False
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return operation is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None


def _line() -> str | None:
    """The innermost line of ours; None for what is on the CPU always: batches as they are loaded,
    and optimisers' counts of their steps."""
    line, _ = origin(sys._getframe(1))
    stack = [frame.filename for frame in traceback.extract_stack()]
    ours = [k for k, file in enumerate(stack) if "/threestudio_asd/" in file]
    optimiser = any("/torch/optim/" in file for file in stack[ours[-1] if ours else 0 :])
    return None if optimiser or "/studio/data/" in line else line


def _called_by(function: str) -> bool:
    return any(frame.name == function for frame in traceback.extract_stack(limit=12))


class _OnCpu:
    """The tensors that would be on the CPU, and what the others make wait."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self._known = WeakTensorKeyDictionary()

    def __contains__(self, value: Any) -> bool:
        return value in self._known

    def mark(self, value: Any, here: bool) -> None:
        for tensor in tree_leaves(value):
            if isinstance(tensor, Tensor):
                if here:
                    self._known[tensor] = True
                else:
                    self._known.pop(tensor, None)

    def count(self, prefix: str = "") -> None:
        line = _line()
        if line is not None:
            self.found[prefix + line] += 1


class _Operations(TorchDispatchMode):
    def __init__(self, on_cpu: _OnCpu) -> None:
        super().__init__()
        self.on_cpu = on_cpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        here = bool(tensors) and all(x in self.on_cpu for x in tensors)
        if not here and _waits(func, args, kwargs):
            self.on_cpu.count()
        out = func(*args, **kwargs)
        if here:
            self.on_cpu.mark(out, True)
        return out


class _Calls(TorchFunctionMode):
    def __init__(self, on_cpu: _OnCpu) -> None:
        super().__init__()
        self.on_cpu = on_cpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, on_cpu = kwargs or {}, self.on_cpu
        first = args[0] if args and isinstance(args[0], Tensor) else None
        made = not any(isinstance(x, Tensor) for x in tree_leaves((args, kwargs)))
        here = first in on_cpu
        if func in TAKEN and not here and first.dim():  # a single number is read by an operation
            on_cpu.count()
        uploads = made and func in MADE_ON_DEVICE and kwargs.get("device") is not None
        uploads = uploads and not _called_by("_extract_stats")  # LearningRates names the CPU
        if uploads or (func is Tensor.new_tensor and not here):
            on_cpu.count(COPY)
        out = func(*args, **kwargs)
        # The same memory under a name of its own, as a copy would have.
        if func is Tensor.cpu and not here:
            on_cpu.mark(out := out.view_as(out), True)
        if func in MOVED and here and _names_device(args[1:], kwargs):
            # Lightning's logged values stay where they are; its batches do not wait on CUDA.
            if _called_by("update_metrics") or _called_by("log"):
                return out
            if not (kwargs.get("non_blocking") or _called_by("move_data_to_device")):
                on_cpu.count(COPY)
            on_cpu.mark(out := out.view_as(out), False)
        if made and kwargs.get("device") is None:
            on_cpu.mark(out, True)
        return out


def _names_device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    values = (*args, kwargs.get("device"), kwargs.get("other"))
    return any(isinstance(x, torch.device | str | Tensor) for x in values)


@contextmanager
def counting() -> Iterator[tuple[Counter[str], Callable[[], None]]]:
    """What waits for the device in the block: lines with their number; and what is to be called
    in every step of it."""
    if not torch.cuda.is_available():
        on_cpu = _OnCpu()
        with _Calls(on_cpu), _Operations(on_cpu):
            yield on_cpu.found, lambda: None
        return
    found: Counter[Any] = Counter()
    with recorded_waits(found) as listen:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found, listen
        finally:
            torch.cuda.set_sync_debug_mode("default")


def waits(config: str, *overrides: str, steps: int = 8, warm: int = 3) -> dict[str, float]:
    """Waits per step of a training of ``config`` by line, most frequent first: averages over
    ``steps`` steps after ``warm``."""
    from threestudio_asd.teachers import recorded

    recorded.AFTER = math.inf  # a recording on the CPU hides its operations' lines
    per_step: dict[str, float] = {}

    with ExitStack() as block:
        counters: list[Any] = []

        def on_step(step: int) -> None:
            if step == warm:
                counters.extend(block.enter_context(counting()))
            if step < warm:
                return
            found, listen = counters
            listen()
            if step == warm + 1:  # where this step's own values have been logged meanwhile
                found.clear()
            if step == warm + 1 + steps:
                for line, count in found.most_common():
                    line = line if isinstance(line, str) else line[0]
                    per_step[line] = per_step.get(line, 0) + round(count / steps, 2)
                raise Enough

        length = f"trainer.max_steps={warm + steps + 2}"
        train(on_step, *BARE, length, *overrides, config=config)
    return per_step


def _code(line: str) -> str:
    import threestudio_asd

    file, _, number = line.removeprefix(COPY).rpartition(":")
    folder = threestudio_asd.__path__[0].removesuffix("threestudio_asd")
    return linecache.getline(folder + file, int(number or 0)).strip()


def measured(
    measure: Callable[..., dict[str, float]], description: str | None, steps: int
) -> dict[str, dict[str, float]]:
    """What ``measure`` finds in each training that the command line asks for.

    Args:
        measure: ``(config, *overrides, steps=) -> figures``.
        steps: How many are measured by default.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trainings", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    options = parser.parse_args()
    asked = ((name, *TRAININGS[name]) for name in options.trainings)
    return {
        name: measure(config, *start, *options.overrides, steps=options.steps)
        for name, config, start in asked
    }


def main() -> None:
    tables = measured(waits, __doc__, steps=8)
    for name, lines in tables.items():
        total = sum(count for line, count in lines.items() if not line.startswith(COPY))
        print(f"\n{name}: {total:.2f} waits per step")
        for line, count in lines.items():
            print(f"  {count:6.2f}  {line}  {_code(line)}")


if __name__ == "__main__":
    main()
