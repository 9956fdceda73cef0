"""What benchmarks/gpu.py measures: each part in a process of its own.

A part is a function of its :class:`Setup`; it hands every figure to ``setup.tell`` as soon as it
has it, so that a part that is cut off leaves what it had.
"""

from collections.abc import Callable

from .operations import kernels, raster, step
from .setup import ROOT, Setup, first_line
from .suite import tests
from .trainings import scenes, true_size
from .waits import waits

__all__ = ["PARTS", "ROOT", "Setup", "first_line"]

PARTS: dict[str, Callable[[Setup], None]] = {
    "kernels": kernels,
    "raster": raster,
    "scenes": scenes,
    "waits": waits,
    "step-fp32": lambda setup: step(setup, "fp32"),
    "step-fp16": lambda setup: step(setup, "fp16"),
    "step-bf16": lambda setup: step(setup, "bf16"),
    "true-size": true_size,
    "tests": tests,
}
