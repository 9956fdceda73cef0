"""The program on the device: where it asks for CUDA's, and where Lightning and Warp do."""

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
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

from threestudio_asd.kernels import _warp

from .backend import register
from .counting import PACKAGE, count_operation, line_of_ours, tallies
from .tensor import NAME, DeviceMixError, PretendedTensor, inner_of, is_pretended, refusal


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
        for counts in tallies:
            counts.begin_step()

    def on_train_end(self, *_: Any) -> None:
        for counts in tallies:
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
        array = original(inner_of(tensor), *args, **kwargs)
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
        if known and known[0].of_device:
            count_operation()
        return original(kernel, dim, inputs, *args, **kwargs)

    return launch


def _check_tensor(original: Callable) -> Callable:
    """Takes our device for one of the two that the kernels know."""

    @functools.wraps(original)
    def check_tensor(name: str, value: Any, *args: Any, like: Any = None, **kwargs: Any) -> None:
        if like is not None and is_pretended(value) != is_pretended(like):
            raise DeviceMixError(refusal(f"{name} mixes {NAME} and the CPU", [value, like]))
        original(name, inner_of(value), *args, like=inner_of(like), **kwargs)

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
