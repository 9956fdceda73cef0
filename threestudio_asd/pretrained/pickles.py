"""Weights out of files that hold objects as well, without running what the files refer to.

threestudio's optimisers keep the arguments that the config gave them, as OmegaConf's lists, and
these refer to the whole config and its classes; checkpoints of Lightning keep its callbacks. Here
nothing but tensors and plain values is made; an object that does nothing takes the place of
everything else.
"""

import pickle
import re
import shlex
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import _utils

_TENSORS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _utils._rebuild_parameter,
}


_PLAIN = (torch.Tensor, str, bytes, int, float, bool, type(None))


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


def read(path: str | Path) -> Any:
    """What ``torch.load`` finds in a file, with stand-ins for objects."""
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_Module)


def read_weights(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The entries ``keys``, as far as they are there, of a checkpoint that holds configs, too."""
    found = read(path)
    return {key: found[key] for key in keys if key in found}


def is_plain(value: Any) -> bool:
    """Whether ``value`` holds nothing but tensors and plain values, at any depth."""
    if isinstance(value, Mapping):
        return all(is_plain(key) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return isinstance(value, _PLAIN)


def refusal(path: str | Path, error: Exception) -> str | None:
    """What to tell of a file whose objects ``torch.load`` refused with ``error``, after its name;
    None if it has no objects, but is damaged."""
    found = re.search(r"GLOBAL (\S+)", str(error))  # the name that the file asks to import
    if found is None:
        return None
    path = Path(path)
    command = ["threestudio-asd", "convert", str(path), f"{path.with_suffix('')}-plain.ckpt"]
    return (
        f"holds more than tensors and plain values ({found.group(1)}); reading that could run code "
        "from the file, so it is refused. To keep its tensors and plain values, which runs "
        f"nothing: {shlex.join(command)}"
    )


class _Module:
    """What torch.load takes for the module ``pickle``."""

    Unpickler = Unpickler
    load = staticmethod(lambda file, **options: Unpickler(file, **options).load())
