"""Weights out of threestudio's own checkpoints, without running what the files refer to.

threestudio's optimisers keep the arguments that the config gave them, as OmegaConf's lists, and
these refer to the whole config and its classes. Here nothing but tensors and plain values is made;
an object that does nothing takes the place of everything else.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import _utils

_TENSORS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _utils._rebuild_parameter,
}


class _Nothing:
    """Takes whatever pickle does to an object."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Nothing":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)


class Unpickler(pickle.Unpickler):
    """For torch.load: no other class or function than these is ever looked up."""

    def find_class(self, module: str, name: str) -> Any:
        return _TENSORS.get((module, name), _Nothing)


def read_weights(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The entries ``keys``, as far as they are there, of a checkpoint that holds configs, too."""
    found = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_Module)
    return {key: found[key] for key in keys if key in found}


class _Module:
    """What torch.load takes for the module ``pickle``."""

    Unpickler = Unpickler
    load = staticmethod(lambda file, **options: Unpickler(file, **options).load())
