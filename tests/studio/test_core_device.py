"""Where a run computes, and how it treats memory."""

import platform
import subprocess
import sys

import pytest
import torch

from threestudio_asd.studio.device import get_device, keep_freed_memory

# 64 MiB is mapped and unmapped each time by default: every round faults its pages in again.
ROUNDS = """
import resource, torch
from threestudio_asd.studio.device import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
for _ in range(20):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    command = [sys.executable, "-c", ROUNDS.format(keep=keep)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_the_device_is_cuda_where_there_is_one():
    assert get_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
def test_freed_memory_is_kept():
    assert faults(keep=True) * 4 < faults(keep=False)


def test_another_allocator_is_left_alone(monkeypatch):
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", absent)
    assert keep_freed_memory() is False
