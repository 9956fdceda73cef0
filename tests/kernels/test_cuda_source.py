"""Every kernel compiles for CUDA, old and new devices; no GPU is needed for that.

What builds kernels is found by itself: the functions ``build*`` and ``_kernel`` of the modules in
``threestudio_asd.kernels``.
"""

import importlib
import inspect
import pkgutil

import pytest
import torch

from threestudio_asd import kernels as package
from threestudio_asd.kernels._warp import warp

ARCHITECTURES = (75, 90, 120)  # Turing, Hopper, Blackwell
# What a builder may be asked for, by the name of its argument; another name fails.
ARGUMENTS = {"n_features": 2, "width": 2, "dtype": torch.float32}
