"""Where the run computes: the chosen CUDA device, or the CPU."""

import ctypes
import gc
import os

import torch


def get_rank() -> int:
    """Rank of this process among those that share one training; 0 when there is only one."""
    for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        if key in os.environ:
            return int(os.environ[key])
    return 0


def get_device() -> torch.device:
    """CUDA if this process sees a CUDA device, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def prepare_cpu() -> None:
    """Settings of a process that computes on the CPU; where there is CUDA, nothing happens.

    Threads share batches (:mod:`threestudio_asd.parallel`), so torch needs none of its own for
    single operations.
    """
    if get_device().type == "cpu":
        keep_freed_memory()
        torch.set_num_threads(1)


def keep_freed_memory() -> bool:
    """Let glibc's allocator reuse large freed blocks instead of returning them to the system.

    A training step on the CPU allocates and frees the same megabytes again and again; each time
    the kernel would clear the pages anew. The process keeps its peak memory from then on.
    ``benchmarks/cpu_allocator.py`` measures the gain.

    Returns:
        Whether the allocator is glibc's and took the settings; elsewhere nothing happens.
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def cleanup() -> None:
    """Return unused memory to the system and to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
