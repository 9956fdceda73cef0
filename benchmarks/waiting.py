"""How often a training step makes the CPU wait for the device, by the line that does.

    python benchmarks/waiting.py [--trainings NeRF geometry texture 2D] [--steps 8] [OVERRIDE ...]

Trains the shipped tiny configs for a few steps (geometry and texture go on from a NeRF and from
each other) and prints a table per training: synchronisations per step, averaged, by the innermost
line of ours. On CUDA PyTorch itself tells of them (``torch.cuda.set_sync_debug_mode``), copies to
the device from the CPU's pageable memory included. On the CPU the operations are counted that
would wait on CUDA: numbers read from tensors and sizes that depend on data; copies cannot be seen
there, and a number that was drawn on the CPU in the first place (``ON_CPU``) is none.
"""

import argparse
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training import Enough, step_ends

#: The lines of the program whose tensors are the CPU's own on every device.
ON_CPU = ("torch.rand(()",)
#: Steps of the NeRF that geometry starts from, and of the geometry that texture starts from.
BEFORE = 20

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
    aten.linalg_inv_ex.default,
}
#: Operations that wait if an index is a mask.
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


def _waits(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if operation in WAITING:
        return True
    if operation in INDEXED:
        indices = [index for index in args[1] if index is not None]
        return any(index.dtype in (torch.bool, torch.uint8) for index in indices)
    return operation is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None


def _line(stack: traceback.StackSummary) -> str | None:
    """The innermost line of ours as "file:line code"; None for a number of the CPU's own."""
    ours = [frame for frame in stack if "/threestudio_asd/" in frame.filename]
    between = stack[stack.index(ours[-1]) :] if ours else stack
    if any("/torch/optim/" in frame.filename for frame in between):
        return None  # the counts of its steps are on the CPU
    if not ours:
        return "elsewhere"
    name = ours[-1].filename.rpartition("/threestudio_asd/")[2]
    code = ours[-1].line or ""
    return None if any(own in code for own in ON_CPU) else f"{name}:{ours[-1].lineno} {code}"


class Counted(TorchDispatchMode):
    """Counts what would wait on CUDA, on CPU tensors."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict | None = None
    ) -> Any:
        if _waits(func, args, kwargs or {}):
            line = _line(traceback.extract_stack())
            if line is not None:
                self.found[line] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """The lines that wait for the device in the block, with their number."""
    found: Counter[str] = Counter()
    if not torch.cuda.is_available():
        with Counted(found):
            yield found
        return

    def told(message: Any, *args: Any, **kwargs: Any) -> None:
        if "synchroniz" in str(message):
            found[_line(traceback.extract_stack()) or "the CPU's own"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = told
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def waits(
    config: str, *overrides: str, steps: int = 8, warm: int = 3
) -> tuple[float, dict[str, float]]:
    """Synchronisations per step of a training of ``config``, and by line, most frequent first;
    averaged over ``steps`` steps after ``warm``."""
    found: Counter[str] = Counter()
    block: list[Any] = []

    def end_of_step(step: int, system: Any) -> None:
        if step == warm:
            block.append(counting())
            block.append(block[0].__enter__())
        if step == warm + steps:
            found.update(block[1])
            raise Enough

    fixed = ("trainer.log_every_n_steps=1", "trainer.val_check_interval=100000", "pieces=1")
    try:
        step_ends(warm + steps + 1, *fixed, *overrides, config=config, end_of_step=end_of_step)
    finally:
        if block:
            block[0].__exit__(None, None, None)
    by_line = {line: round(count / steps, 2) for line, count in found.most_common()}
    return round(sum(found.values()) / steps, 2), by_line


def checkpoint_of(folder: Path, config: str, *overrides: str, steps: int = BEFORE) -> str:
    """A trial in ``folder`` that ended after ``steps`` steps; the path of its checkpoint."""

    def end_of_step(step: int, system: Any) -> None:
        if step == steps:
            shutil.copytree(Path(system.get_save_dir()).parent / "configs", folder / "configs")
            system.trainer.save_checkpoint(folder / "ckpts" / "last.ckpt")
            raise Enough

    (folder / "ckpts").mkdir(parents=True)
    step_ends(steps + 1, *overrides, config=config, end_of_step=end_of_step)
    return f"system.geometry_convert_from={folder / 'ckpts' / 'last.ckpt'}"


def trainings(wanted: list[str], *overrides: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, config and options of each training; earlier stages are trained when one needs them."""
    with tempfile.TemporaryDirectory() as name:
        nerf = geometry = ""
        if {"geometry", "texture"} & set(wanted):
            nerf = checkpoint_of(Path(name, "nerf"), "tiny/asd-nerf", *overrides)
        if "texture" in wanted:
            first = "tiny/asd-geometry"
            geometry = checkpoint_of(Path(name, "geometry"), first, nerf, *overrides, steps=2)
        for training, config, start in (
            ("NeRF", "tiny/asd-nerf", ()),
            ("geometry", "tiny/asd-geometry", (nerf,)),
            ("texture", "tiny/asd-texture", (geometry,)),
            ("2D", "tiny/asd-2d", ()),
        ):
            if training in wanted:
                yield training, config, (*start, *overrides)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = ["NeRF", "geometry", "texture", "2D"]
    parser.add_argument("--trainings", nargs="+", choices=names, default=names)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    options = parser.parse_args()
    rows = []
    for name, config, overrides in trainings(options.trainings, *options.overrides):
        rows.append((name, *waits(config, *overrides, steps=options.steps)))
    for name, total, lines in rows:
        print(f"\n{name}: {total} per step")
        for line, count in lines.items():
            print(f"  {count:5.2f}  {line}")


if __name__ == "__main__":
    sys.exit(main())
