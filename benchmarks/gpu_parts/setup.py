"""How a part is told what to do, and what it does with what fails."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent.parent
ROOT = HERE.parent


@dataclass(frozen=True)
class Setup:
    """How a part is to run, and where its figures go.

    Attributes:
        device: "cuda" or "cpu".
        reduced: everything small: for a test of the benchmark itself.
        tell: takes all figures so far; ``headline`` among them is the one to print.
    """

    device: str
    reduced: bool
    tell: Callable[[dict[str, Any]], None]

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


@contextmanager
def going_on(figures: dict[str, Any], name: str) -> Iterator[None]:
    """What the block raises becomes the part's ``error``; the part goes on to what follows."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        figures["error"] = f"{name}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """CUDA's messages end in lines of advice: the first says what happened."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
