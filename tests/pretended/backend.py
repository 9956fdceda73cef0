"""The device as PyTorch's PrivateUse1 backend."""

import functools
from types import ModuleType
from typing import Any

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from .counting import count, count_operation
from .tensor import NAME, DeviceMixError, PretendedTensor, inner_of, is_pretended, refusal

aten = torch.ops.aten
# Factories: no tensor among their arguments, so that the device alone leads here.
FACTORIES = [
    "arange",
    "arange.start",
    "arange.start_step",
    "empty.memory_format",
    "empty_strided",
    "eye",
    "eye.m",
    "linspace",
    "logspace",
    "randperm",
    "randperm.generator",
    "tril_indices",
    "triu_indices",
]


class _Module(ModuleType):
    """``torch.pretended``."""

    def __init__(self) -> None:
        super().__init__(f"torch.{NAME}")
        self.on = False  # whether libraries that ask for an accelerator find one

    def is_available(self) -> bool:
        return self.on

    def device_count(self) -> int:
        return int(self.on)

    def is_initialized(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def synchronize(self, device: Any = None) -> None:
        count("synchronize")

    def empty_cache(self) -> None:
        pass


class _Hooks(torch._C._acc.PrivateUse1Hooks):
    def is_available(self) -> bool:
        return True

    def has_primary_context(self, index: int) -> bool:
        return True

    def is_built(self) -> bool:
        return True


class _Guard(torch._C._acc.DeviceGuard):
    def type_(self) -> Any:
        return torch._C._autograd.DeviceType.PrivateUse1


_libraries: list[Any] = []  # registrations end with their library


@functools.cache
def register() -> _Module:
    """Register the backend, once in a process and for good; returns ``torch.pretended``."""
    module = _Module()
    _setup_privateuseone_for_python_backend(NAME, module, _Hooks(), _Guard())
    library = torch.library.Library("aten", "IMPL")
    _libraries.append(library)
    for name in FACTORIES:
        packet, _, overload = name.partition(".")
        make = getattr(getattr(aten, packet), overload or "default")
        library.impl(name, functools.partial(_make, make), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    every = torch.library.Library("_", "IMPL")
    _libraries.append(every)
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    return module


def _make(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise DeviceMixError(refusal(f"{func} with a generator of the CPU", []))
    kwargs.pop("pin_memory", None)
    count_operation()
    return PretendedTensor(func(*args, **{**kwargs, "device": torch.device("cpu")}))


def _copy_from(source: torch.Tensor, to: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Copies that C++ makes by itself, as in torch.tensor(..., device=)."""
    if not is_pretended(source):
        count("from the CPU", wait=False)
    elif not is_pretended(to):
        count("to the CPU")
    inner_of(to).copy_(inner_of(source))
    return to
