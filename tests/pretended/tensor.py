"""The tensor on the device: what it computes, and what it refuses."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .counting import count, count_operation, line_of_ours, tallies

NAME = "pretended"

# What reads values of the device, whatever its arguments: sizes and numbers that the host needs.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "unique_dim_consecutive", "bincount", "histc", "equal",
    "_linalg_check_errors",
}  # fmt: skip
# Their index tensors may be on the CPU; CUDA copies them over.
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index",
            "_unsafe_index_put"}  # fmt: skip
# From one device to another is what they are for.
COPYING = {"copy_", "_to_copy", "copy", "_copy_from", "_copy_from_and_resize"}


class DeviceMixError(RuntimeError):
    """What CUDA would refuse, or what would crash there."""


class PretendedTensor(torch.Tensor):
    """A tensor on the device; ``inner`` is the CPU tensor that it holds."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "PretendedTensor":
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
        )
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __init__(self, inner: torch.Tensor) -> None:
        pass

    def __repr__(self, **_: Any) -> str:
        return f"{NAME}:{self.inner.detach()!r}"

    @property
    def data(self) -> torch.Tensor:
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        if not isinstance(value, PretendedTensor):
            raise DeviceMixError(refusal(".data = (a CPU tensor)", [self, value]))
        torch.Tensor.data.__set__(self, value)
        self.inner = value.inner

    def _refuse(self, what: str) -> Any:
        raise TypeError(refusal(f"{what} (use .cpu() first)", [self]))

    def numpy(self, **_: Any) -> Any:
        self._refuse("numpy()")

    def __array__(self, *_: Any, **__: Any) -> Any:
        self._refuse("numpy()")

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 else object.__format__(self, spec)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self._refuse("data_ptr()")

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        if id(self) not in memo:
            new = self.detach().clone().requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                new = torch.nn.Parameter(new, self.requires_grad)
            memo[id(self)] = new
        return memo[id(self)]

    def __reduce_ex__(self, protocol: int) -> Any:
        """What is saved is a plain tensor, as a CUDA tensor is one when mapped to the CPU."""
        count("save")
        plain = self.inner.detach()
        if isinstance(self, torch.nn.Parameter):
            plain = torch.nn.Parameter(plain, self.requires_grad)
        return plain.__reduce_ex__(protocol)


def is_pretended(value: Any) -> bool:
    """Whether it is a tensor on the device."""
    return isinstance(value, PretendedTensor)


def _device_type(device: Any) -> str | None:
    return None if device is None else torch.device(device).type


def _wrap(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and not is_pretended(value):
        return PretendedTensor(value)
    return value


def inner_of(value: Any) -> Any:
    """The CPU tensor of one on the device; anything else as it is."""
    return value.inner if is_pretended(value) else value


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def refusal(what: str, tensors: list[torch.Tensor]) -> str:
    """The message: what is refused, at which line of ours, with which tensors."""
    shown = ", ".join(f"{str(t.dtype)[6:]}{list(t.shape)} on {t.device}" for t in tensors)
    return f"{what} in {line_of_ours()}: {shown}"


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    """One operation with a tensor of the device among its arguments."""
    name = func._schema.name.removeprefix("aten::")
    _check(name, args, kwargs)
    _note(name, args, kwargs)
    inner_args = _each(inner_of, args)
    if name == "copy_":  # into either
        inner_args[0].copy_(inner_args[1])
        return args[0]
    inner_kwargs = {key: _each(inner_of, value) for key, value in kwargs.items()}
    inner_kwargs.pop("pin_memory", None)
    if kwargs.get("device") is not None:
        inner_kwargs["device"] = "cpu"
    out = func(*inner_args, **inner_kwargs)
    if _device_type(kwargs.get("device")) == "cpu":
        # Never the same memory, also where the CPU would have had nothing to copy.
        return out.clone() if out is inner_args[0] else out
    out = _each(_wrap, out)
    if func._schema.is_mutable:
        _follow(args, kwargs)
        given = [args[k] if k < len(args) else kwargs.get(name) for k, name in _written(func)]
        if given:
            return given[0] if len(given) == 1 else tuple(given)
    return out


@functools.cache
def _written(func: Any) -> list[tuple[int, str]]:
    """Place and name of the arguments that an operation writes into and returns."""
    schema, found = func._schema, []
    for returned in schema.returns:
        for k, argument in enumerate(schema.arguments):
            info = argument.alias_info
            if returned.alias_info and info and info.before_set == returned.alias_info.before_set:
                found.append((k, argument.name))
    return found


def _each(function: Callable[[Any], Any], values: Any) -> Any:
    if isinstance(values, (list, tuple)):
        return type(values)([_each(function, value) for value in values])
    return function(values)


def _follow(args: tuple, kwargs: dict) -> None:
    """After an operation in place that changes sizes (squeeze_, resize_, out=), ours follow."""
    for x in _tensors([args, kwargs]):
        if is_pretended(x) and (x.shape != x.inner.shape or x.stride() != x.inner.stride()):
            with torch._C._DisableTorchDispatch():
                torch.Tensor.data.__set__(x, PretendedTensor(x.inner))


def _check(name: str, args: tuple, kwargs: dict) -> None:
    """Refuse CPU tensors beside those of the device, but for what CUDA lets pass."""
    if name in COPYING:
        return
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise DeviceMixError(refusal(f"{name} with a generator of the CPU", []))
    checked = list(_tensors([args, kwargs]))
    if all(map(is_pretended, checked)):
        return
    if name in INDEXING and is_pretended(args[0]):
        if any(not is_pretended(x) for x in _tensors(args[1])):
            count(f"{name} with CPU indices", wait=False)
        checked = list(_tensors([args[0], args[2:], kwargs]))
    # A number of the CPU is an argument of a kernel, if something else says where to compute.
    if any(not is_pretended(x) and (x.ndim or name in _NO_NUMBERS) for x in checked):
        shown = list(_tensors([args, kwargs]))
        raise DeviceMixError(refusal(f"{name} mixes {NAME} and the CPU", shown))


# A 0-dimensional CPU tensor is refused by these, too: they write into it or look up with it.
_NO_NUMBERS = {"embedding", "gather", "scatter", "scatter_", "scatter_add_", "index_select", "cat"}


def _note(name: str, args: tuple, kwargs: dict) -> None:
    """Count the operation, and whether a GPU would be waited for."""
    if not tallies:
        return
    count_operation()
    if name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        count(name)
    elif name in INDEXING:
        masks = [x for x in _tensors(args[1]) if x.dtype in (torch.bool, torch.uint8)]
        fills = name.startswith(("index_put", "_index_put")) and (
            args[2].numel() == 1 and not (len(args) > 3 and args[3])
        )
        if masks and not (fills and len(masks) == len(list(_tensors(args[1])))):
            for _ in masks:
                count(f"{name} with a mask")
    elif name == "_to_copy":
        # The first argument is on the device: CPU tensors come here as copy_.
        if _device_type(kwargs.get("device")) == "cpu" and not kwargs.get("non_blocking"):
            count("to the CPU")
    elif name == "copy_":
        to, source = args[:2]
        blocking = not (len(args) > 2 and args[2]) and not kwargs.get("non_blocking")
        if not is_pretended(to) and blocking:
            count("to the CPU")
        elif not is_pretended(source) and not (not blocking and source.is_pinned()):
            count("from the CPU", wait=False)
