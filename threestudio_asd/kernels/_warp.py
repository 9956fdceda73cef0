"""The one place where torch tensors meet NVIDIA Warp.

Warp is imported and initialised at the first launch, never when a kernel module is imported; its
compiled kernels are cached on disk, so only the very first launch pays for compilation.
"""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from threestudio_asd import homes
from threestudio_asd.errors import UserError

# Below this many elements a second thread costs more than it saves.
MIN_PARALLEL = 8192


# Warp builds, compiles and loads in one thread at a time.
_building = threading.RLock()
# Kernels launched before, which are compiled and loaded.
_loaded: set[Any] = set()


def made_once(make: Callable[..., Any]) -> Callable[..., Any]:
    """``functools.cache`` for what threads must not make twice: two builds of a kernel would each
    have types of their own."""
    found: dict[Any, Any] = {}

    @functools.wraps(make)
    def get(*key: Any) -> Any:
        if key not in found:
            with _building:
                if key not in found:
                    found[key] = make(*key)
        return found[key]

    return get


@contextlib.contextmanager
def _stderr_to_null() -> Iterator[None]:
    """Warp's C library prints a line on machines without a GPU driver, whatever its log level."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


@made_once
def warp() -> Any:
    """Import and initialise Warp, without its banner.

    Raises:
        UserError: if Warp is not installed, or there is no place for its compiled kernels.
    """
    try:
        import warp as wp
    except ImportError as error:
        raise UserError(
            f"NVIDIA Warp cannot be imported ({error}). Fix: pip install warp-lang"
        ) from error
    wp.config.log_level = wp.LOG_ERROR
    if wp.config.kernel_cache_dir is None:
        homes.settle_kernels()
    with contextlib.nullcontext() if torch.cuda.is_available() else _stderr_to_null():
        wp.init()
    return wp


@made_once
def scalar_type(dtype: torch.dtype) -> Any:
    """The Warp scalar type of a torch float dtype: float32 or float64."""
    wp = warp()
    return {torch.float32: wp.float32, torch.float64: wp.float64}[dtype]


@made_once
def _stream(device_index: int, handle: int) -> Any:
    wp = warp()
    return wp.Stream(wp.get_device(f"cuda:{device_index}"), cuda_stream=handle)


@functools.cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="kernels")


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_workers.cache_clear)


def as_array(tensor: Tensor, dtype: Any = None) -> Any:
    """Show a contiguous tensor to Warp without a copy.

    ``dtype`` may be a Warp vector type as long as the last dimension. The tensor must outlive the
    launch.
    """
    return warp().from_torch(tensor.detach(), dtype=dtype, return_ctype=True)


def launch(kernel: Any, dim: int | tuple[int, ...], args: Sequence[Any], device: torch.device):
    """Launch on torch's current stream (CUDA) or in the calling thread (CPU)."""
    wp = warp()
    if device.type == "cuda":
        current = torch.cuda.current_stream(device)
        stream = _stream(current.device_index, current.cuda_stream)
        wp.launch(kernel, dim, args, stream=stream, record_tape=False)
    else:
        wp.launch(kernel, dim, args, device="cpu", record_tape=False)


def threads_for(n_items: int, work: int, device: torch.device) -> int:
    """In how many CPU threads ``work`` elements, spread over ``n_items``, are worth splitting."""
    if device.type == "cuda" or work < MIN_PARALLEL:
        return 1
    return max(1, min(torch.get_num_threads(), n_items))


def launch_split(
    kernel: Any,
    n_items: int,
    args: Sequence[Any],
    device: torch.device,
    threads: int = 1,
    inner: int = 1,
) -> None:
    """Launch ``kernel(first, stride, *args)`` once per item (times ``inner``), in CPU threads.

    Warp runs a CPU launch in one thread, but releases the GIL: thread k of n takes the items
    k, k + n, k + 2n, ... (neighbours cost alike, so the shares are even). The kernel finds its
    item as ``first + stride * i``; two items must not write to the same memory.
    """
    if kernel not in _loaded:
        with _building:
            launch(kernel, (n_items, inner), [0, 1, *args], device)
            _loaded.add(kernel)
        return
    jobs = [
        _workers().submit(
            launch, kernel, (len(range(k, n_items, threads)), inner), [k, threads, *args], device
        )
        for k in range(1, threads)
    ]
    launch(kernel, (len(range(0, n_items, threads)), inner), [0, threads, *args], device)
    for job in jobs:
        job.result()


def check_tensor(
    name: str,
    value: Any,
    shape: str,
    ndim: int | None = None,
    last: int | None = None,
    like: Tensor | None = None,
) -> None:
    """Raise one clear message unless ``value`` is a float32/float64 tensor of the given shape.

    ``shape`` is for the message; ``ndim`` and ``last`` are checked (by default any but a scalar);
    ``like`` fixes dtype and device.
    """
    if not isinstance(value, Tensor):
        raise UserError(f"{name} must be a torch tensor {shape}, got {type(value).__name__}.")
    if value.ndim != (ndim or max(value.ndim, 1)) or (last is not None and value.shape[-1] != last):
        raise UserError(f"{name} must have shape {shape}, got {tuple(value.shape)}.")
    if value.dtype not in (torch.float32, torch.float64):
        raise UserError(
            f"{name} must be float32 or float64, got {value.dtype}. Fix: call .float() on it."
        )
    if value.device.type not in ("cpu", "cuda"):
        raise UserError(f"{name} must be on the CPU or a CUDA device, got {value.device}.")
    if like is not None and (value.dtype, value.device) != (like.dtype, like.device):
        raise UserError(
            f"{name} is {value.dtype} on {value.device}, but it must match {like.dtype} on "
            f"{like.device}."
        )
