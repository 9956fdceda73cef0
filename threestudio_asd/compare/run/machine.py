"""The machine that runs a cell."""

import os
import platform
from pathlib import Path

import torch

from threestudio_asd import parallel
from threestudio_asd.compare.run import memory
from threestudio_asd.studio.device import get_device

_CLEAR_REFS = Path("/proc/self/clear_refs")


def describe() -> str:
    """The GPU, or the processor with the number of threads that compute pieces of a batch."""
    if get_device().type == "cuda":
        return torch.cuda.get_device_name(0)
    threads = parallel.get_threads()
    return f"{processor()} ({os.cpu_count()} cores), {threads} thread{'s' * (threads > 1)}"


def forget_peak_memory() -> None:
    """Let the peak of :func:`peak_memory_mb` begin here, where the system can."""
    if get_device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")


def peak_memory_mb() -> float | None:
    """Peak memory of the GPU, or of this process, since :func:`forget_peak_memory`, or None."""
    if get_device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return memory.peak_mb() if _CLEAR_REFS.exists() else None


def processor() -> str:
    """The CPU's name as Linux knows it, else what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
