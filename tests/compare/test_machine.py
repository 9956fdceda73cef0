"""What is told of the machine."""

import torch

from threestudio_asd.compare import machine


def test_threads_are_counted_on_a_cpu():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert machine.describe().endswith("1 thread") or torch.cuda.is_available()
    finally:
        torch.set_num_threads(before)


def test_the_peak_is_of_the_last_stretch():
    peaks = []
    for megabytes in (400, 1):
        machine.forget_peak_memory()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.ones(megabytes * 2**18, device=device)
        peaks.append(machine.peak_memory_mb())
    if peaks[0] is not None:
        assert peaks[0] - peaks[1] > 300
