"""A device that computes on the CPU but is not the CPU, for tests where there is no GPU.

``pretended:0`` is PyTorch's PrivateUse1 backend, written in Python: a tensor on it is a wrapper
that holds a CPU tensor (experimental parts of PyTorch are used in this package alone). As CUDA
does, it lets 0-dimensional CPU tensors and CPU indices pass, refuses every other mixing,
``numpy()`` and pointers, and hands out random numbers to its own generators only (here the CPU's
default one). It counts what a program on a GPU would wait for. ::

    with pretended(), tally() as counts:
        train_a_step()
    counts  # Counter: "threestudio_asd/kernels/volrend.py:88" -> how often that line waited
"""

from .backend import register
from .counting import Tally, tally
from .program import import_all, pretended
from .tensor import DeviceMixError, is_pretended

__all__ = [
    "DeviceMixError",
    "Tally",
    "import_all",
    "is_pretended",
    "pretended",
    "register",
    "tally",
]
