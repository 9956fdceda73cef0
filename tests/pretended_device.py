"""A device that computes on the CPU but is not the CPU, for tests where there is no GPU.

``pretended:0`` is PyTorch's PrivateUse1 backend, written in Python: a tensor on it is a wrapper
that holds a CPU tensor (experimental parts of PyTorch are used in this file alone). As CUDA does,
it lets 0-dimensional CPU tensors and CPU indices pass, refuses every other mixing, ``numpy()`` and
pointers, and hands out random numbers to its own generators only (here the CPU's default one). It
counts what a program on a GPU would wait for. ::

    with pretended(), tally() as counts:
        train_a_step()
    counts  # Counter: "threestudio_asd/kernels/volrend.py:88" -> how often that line waited
"""

import contextlib
import functools
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from processes import PRELOADED
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.optim import optimizer
from torch.utils import _foreach_utils
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import threestudio_asd
from threestudio_asd.kernels import _warp

NAME = "pretended"
PACKAGE = Path(threestudio_asd.__file__).parent
aten = torch.ops.aten

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


class DeviceMixError(RuntimeError):
    """What CUDA would refuse, or what would crash there."""


class Tally(Counter):
    """Lines of ours ("threestudio_asd/...py:12") and how often the device was waited for there.

    Attributes:
        uploads: the same for copies from the CPU, for which CUDA waits, too, unless they are
            ``non_blocking`` from pinned memory.
        kinds: what waited at which line: (operation, line).
        operations: all operations by line, whether or not they wait.
        steps: a tally of each step of a training, from the start of its batch to the next one's,
            logging included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uploads: Counter = Counter()
        self.kinds: Counter = Counter()
        self.operations: Counter = Counter()
        self.steps: list[Tally] = []
        self._before: Tally | None = None

    def begin_step(self) -> None:
        """End the step that runs, if one does, and begin the next."""
        self.end_step()
        self._before = self._snapshot()

    def end_step(self) -> None:
        """What was counted since the step began is the step's."""
        if self._before is not None:
            now, before = self._snapshot(), self._before
            now.subtract(before)
            for name in ("uploads", "kinds", "operations"):
                setattr(now, name, getattr(now, name) - getattr(before, name))
            for line in [line for line, count in now.items() if not count]:
                del now[line]
            self.steps.append(now)
        self._before = None

    def _snapshot(self) -> "Tally":
        taken = Tally()
        taken.update(self)
        for name in ("uploads", "kinds", "operations"):
            setattr(taken, name, Counter(getattr(self, name)))
        return taken


_tallies: list[Tally] = []


@contextlib.contextmanager
def tally() -> Iterator[Tally]:
    """Count what the device is waited for, and all its operations, in every thread."""
    counts = Tally()
    _tallies.append(counts)
    try:
        yield counts
    finally:
        _tallies.remove(counts)


def line_of_ours() -> str:
    """The innermost line under ``threestudio_asd/`` that runs now; else the innermost of a test;
    in a thread of autograd without either, "backward"."""
    frame, root, of_tests = sys._getframe(1), str(PACKAGE), None
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(root):
            return f"{Path(file).relative_to(PACKAGE.parent)}:{frame.f_lineno}"
        if of_tests is None and file != __file__ and "/tests/" in file:
            of_tests = f"tests/{file.rpartition('/tests/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return of_tests or "backward"


def _count(kind: str, wait: bool = True) -> None:
    if _tallies:
        line = line_of_ours()
        for counts in _tallies:
            (counts if wait else counts.uploads)[line] += 1
            counts.kinds[kind, line] += 1


# --------------------------------------------------------------------------- the tensor


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
            raise DeviceMixError(_refusal(".data = (a CPU tensor)", [self, value]))
        torch.Tensor.data.__set__(self, value)
        self.inner = value.inner

    def _refuse(self, what: str) -> Any:
        raise TypeError(_refusal(f"{what} (use .cpu() first)", [self]))

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
        _count("save")
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


def _inner(value: Any) -> Any:
    return value.inner if is_pretended(value) else value


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _refusal(what: str, tensors: list[torch.Tensor]) -> str:
    shown = ", ".join(f"{str(t.dtype)[6:]}{list(t.shape)} on {t.device}" for t in tensors)
    return f"{what} in {line_of_ours()}: {shown}"


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    """One operation with a tensor of the device among its arguments."""
    name = func._schema.name.removeprefix("aten::")
    _check(name, args, kwargs)
    _note(name, args, kwargs)
    inner_args = _each(_inner, args)
    if name == "copy_":  # into either
        inner_args[0].copy_(inner_args[1])
        return args[0]
    inner_kwargs = {key: _each(_inner, value) for key, value in kwargs.items()}
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
        raise DeviceMixError(_refusal(f"{name} with a generator of the CPU", []))
    checked = list(_tensors([args, kwargs]))
    if all(map(is_pretended, checked)):
        return
    if name in INDEXING and is_pretended(args[0]):
        if any(not is_pretended(x) for x in _tensors(args[1])):
            _count(f"{name} with CPU indices", wait=False)
        checked = list(_tensors([args[0], args[2:], kwargs]))
    # A number of the CPU is an argument of a kernel, if something else says where to compute.
    if any(not is_pretended(x) and (x.ndim or name in _NO_NUMBERS) for x in checked):
        shown = list(_tensors([args, kwargs]))
        raise DeviceMixError(_refusal(f"{name} mixes {NAME} and the CPU", shown))


# A 0-dimensional CPU tensor is refused by these, too: they write into it or look up with it.
_NO_NUMBERS = {"embedding", "gather", "scatter", "scatter_", "scatter_add_", "index_select", "cat"}


def _note(name: str, args: tuple, kwargs: dict) -> None:
    """Count the operation, and whether a GPU would be waited for."""
    if not _tallies:
        return
    line = line_of_ours()
    for counts in _tallies:
        counts.operations[line] += 1
    if name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        _count(name)
    elif name in INDEXING:
        masks = [x for x in _tensors(args[1]) if x.dtype in (torch.bool, torch.uint8)]
        fills = name.startswith(("index_put", "_index_put")) and (
            args[2].numel() == 1 and not (len(args) > 3 and args[3])
        )
        if masks and not (fills and len(masks) == len(list(_tensors(args[1])))):
            for _ in masks:
                _count(f"{name} with a mask")
    elif name == "_to_copy":
        # The first argument is on the device: CPU tensors come here as copy_.
        if _device_type(kwargs.get("device")) == "cpu" and not kwargs.get("non_blocking"):
            _count("to the CPU")
    elif name == "copy_":
        to, source = args[:2]
        blocking = not (len(args) > 2 and args[2]) and not kwargs.get("non_blocking")
        if not is_pretended(to) and blocking:
            _count("to the CPU")
        elif not is_pretended(source) and not (not blocking and source.is_pinned()):
            _count("from the CPU", wait=False)


# --------------------------------------------------------------------------- the backend


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
        _count("synchronize")

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
        raise DeviceMixError(_refusal(f"{func} with a generator of the CPU", []))
    kwargs.pop("pin_memory", None)
    if _tallies:
        line = line_of_ours()
        for counts in _tallies:
            counts.operations[line] += 1
    return PretendedTensor(func(*args, **{**kwargs, "device": torch.device("cpu")}))


def _copy_from(source: torch.Tensor, to: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Copies that C++ makes by itself, as in torch.tensor(..., device=)."""
    if not is_pretended(source):
        _count("from the CPU", wait=False)
    elif not is_pretended(to):
        _count("to the CPU")
    _inner(to).copy_(_inner(source))
    return to


# --------------------------------------------------------------------------- the program on it


class _Accelerator(Accelerator):
    """Lightning's."""

    def setup_device(self, device: torch.device) -> None:
        pass

    def teardown(self) -> None:
        pass

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


class _Steps(Callback):
    """Tells the tallies where a step begins; what it logs is fetched after its last hook."""

    def on_train_batch_start(self, *_: Any) -> None:
        for counts in _tallies:
            counts.begin_step()

    def on_train_end(self, *_: Any) -> None:
        for counts in _tallies:
            counts.end_step()


def _trainer(trainer: type) -> Callable[..., Any]:
    def make(**arguments: Any) -> Any:
        accelerator, device = _Accelerator(), torch.device(NAME, 0)
        strategy = SingleDeviceStrategy(device=device, accelerator=accelerator)
        arguments.pop("accelerator")
        callbacks = [_Steps(), *arguments.pop("callbacks")]
        return trainer(**arguments, callbacks=callbacks, strategy=strategy)

    return make


def _apply(original: Callable) -> Callable:
    """A module's parameters stay the same objects when it is moved, as they do with CUDA."""

    def apply(module: torch.nn.Module, fn: Callable, recurse: bool = True) -> torch.nn.Module:
        for child in module.children() if recurse else ():
            child._apply(fn)
        for key, parameter in module._parameters.items():
            if parameter is None:
                continue
            with torch.no_grad():
                moved, grad = fn(parameter), parameter.grad
            if is_pretended(moved) == is_pretended(parameter):
                continue  # the original's
            new, parameter.grad = torch.nn.Parameter(moved, parameter.requires_grad), None
            try:
                torch.utils.swap_tensors(parameter, new)
            except RuntimeError:  # a graph that is still alive has it
                module._parameters[key] = parameter = new
            if grad is not None:
                parameter.grad = fn(grad)
        return original(module, fn, recurse=False)

    return apply


def _from_torch(original: Callable) -> Callable:
    def from_torch(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        array = original(_inner(tensor), *args, **kwargs)
        array.of_device = is_pretended(tensor)
        array.shown = f"{str(tensor.dtype)[6:]}{list(tensor.shape)}"
        return array

    return from_torch


def _launch(original: Callable) -> Callable:
    def launch(kernel: Any, dim: Any, inputs: Any = (), *args: Any, **kwargs: Any) -> Any:
        known = [x for x in inputs if hasattr(x, "of_device")]
        if len({x.of_device for x in known}) > 1:
            shown = ", ".join(f"{x.shown} on {NAME if x.of_device else 'cpu'}" for x in known)
            raise DeviceMixError(
                f"kernel {kernel.key} mixes {NAME} and the CPU in {line_of_ours()}: {shown}"
            )
        if _tallies and known and known[0].of_device:
            line = line_of_ours()
            for counts in _tallies:
                counts.operations[line] += 1
        return original(kernel, dim, inputs, *args, **kwargs)

    return launch


def _check_tensor(original: Callable) -> Callable:
    """Takes our device for one of the two that the kernels know."""

    @functools.wraps(original)
    def check_tensor(name: str, value: Any, *args: Any, like: Any = None, **kwargs: Any) -> None:
        if like is not None and is_pretended(value) != is_pretended(like):
            raise DeviceMixError(_refusal(f"{name} mixes {NAME} and the CPU", [value, like]))
        original(name, _inner(value), *args, like=_inner(like), **kwargs)

    return check_tensor


def _rebound(original: Any, new: Any) -> Iterator[Any]:
    """Patches of every module of ours that has imported ``original`` by name."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == PACKAGE.name:
            for key, value in list(vars(module).items()):
                if value is original:
                    yield mock.patch.object(module, key, new)


@contextlib.contextmanager
def pretended() -> Iterator[torch.device]:
    """Within, the program takes ``pretended:0`` for its device, as if it had found CUDA."""
    import warp._src.context as context

    from threestudio_asd.studio import device
    from threestudio_asd.studio.run import trainer

    import_all()
    module, place, wp = register(), torch.device(NAME, 0), _warp.warp()
    context.runtime.device_map.setdefault(str(place), context.runtime.get_device("cpu"))
    get_device = device.get_device
    together = [*_foreach_utils._foreach_supported_types, PretendedTensor]
    lightning = ModuleType("pytorch_lightning")
    vars(lightning).update(vars(trainer.pl), Trainer=_trainer(trainer.pl.Trainer))
    with contextlib.ExitStack() as stack:
        for patch in (
            *_rebound(get_device, lambda: place),
            *_rebound(_warp.check_tensor, _check_tensor(_warp.check_tensor)),
            mock.patch.object(wp, "from_torch", _from_torch(wp.from_torch)),
            mock.patch.object(wp, "launch", _launch(wp.launch)),
            mock.patch.object(trainer, "pl", lightning),
            # Optimisers and norms take all tensors at once, as they do on CUDA.
            mock.patch.object(_foreach_utils, "_foreach_supported_types", together),
            mock.patch.object(optimizer, "_foreach_supported_types", together),
            mock.patch.object(torch.cuda, "is_available", lambda: False),
            mock.patch.object(torch.nn.Module, "_apply", _apply(torch.nn.Module._apply)),
        ):
            stack.enter_context(patch)
        module.on = True
        stack.callback(setattr, module, "on", False)
        yield place


def import_all() -> None:
    """Every module of the program: imported later, one would keep a name that is patched now.
    And what they import when it is needed first, so that no fork does it again."""
    ours = (
        "studio.run.launch",
        "studio.run.execute",
        "studio.data",
        "studio.models",
        "guidance",
        "systems",
    )
    for module in (*(f"{PACKAGE.name}.{name}" for name in ours), *PRELOADED):
        importlib.import_module(module)
    _warp.warp()
