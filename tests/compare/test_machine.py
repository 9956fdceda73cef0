"""What is told of the machine."""

import subprocess
import sys

import torch

from threestudio_asd.compare.run import machine
from threestudio_asd.parallel import splitting


def test_threads_are_counted_on_a_cpu():
    for threads, told in ((1, "1 thread"), (3, "3 threads")):
        with splitting(pieces=4, threads=threads):
            assert machine.describe().endswith(told) or torch.cuda.is_available()


# In a process of its own: one that has freed much memory reuses it, and its peak stays.
STRETCHES = """
import torch
from threestudio_asd.compare.run import machine
for megabytes in (400, 1):
    machine.forget_peak_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.ones(megabytes * 2**18, device=device)
    print(machine.peak_memory_mb())
"""


def test_the_peak_is_of_the_last_stretch():
    done = subprocess.run(
        [sys.executable, "-c", STRETCHES], check=True, capture_output=True, text=True
    )
    first, second = done.stdout.split()
    if first != "None":
        assert float(first) - float(second) > 300
