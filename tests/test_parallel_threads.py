"""Threads that compute the pieces of a batch: how many, their errors, modes and settings."""

import os
import subprocess
import sys
import threading
import time
import traceback

import pytest
import torch

from threestudio_asd import parallel
from threestudio_asd.errors import UserError
from threestudio_asd.parallel import map_batch, splitting


def test_an_error_arrives_once_with_its_own_traceback_when_no_piece_runs():
    ended = []

    def function(x):
        if x[0] == 0:
            raise_here()
        time.sleep(0.2)
        ended.append(x[0].item())
        if x[0] == 3:
            raise ValueError("the last piece's")
        return x

    def raise_here():
        raise KeyError("the first piece's")

    with splitting(4, 2):
        map_batch(lambda x: x, torch.arange(4.0))
        before = threading.active_count()
        with pytest.raises(KeyError, match="the first piece's") as caught:
            map_batch(function, torch.arange(4.0))
        assert sorted(ended) == [1.0, 2.0, 3.0]
        assert threading.active_count() == before
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert names[-2:] == ["function", "raise_here"]
        # The threads go on.
        assert torch.equal(map_batch(lambda x: 2 * x, torch.arange(4.0)), 2 * torch.arange(4.0))


def test_at_most_as_many_pieces_at_a_time_as_threads_each_on_one_torch_thread():
    running, most, torch_threads = [], [], set()

    def function(x):
        running.append(0)
        most.append(len(running))
        torch_threads.add(torch.get_num_threads())
        time.sleep(0.02)
        running.pop()
        return x

    for threads in (1, 2, 3):
        most.clear()
        with splitting(6, threads):
            map_batch(function, torch.arange(6.0))
        assert max(most) == threads
    assert torch_threads == {1}


def test_modes_of_the_calling_thread_hold_in_the_pieces():
    modes = []

    def function(x):
        modes.append((torch.is_grad_enabled(), (x @ x.mT).dtype))
        return x

    x = torch.randn(2, 3, 3, requires_grad=True)
    with splitting(2, 2):
        with torch.no_grad():
            assert not map_batch(function, x).requires_grad
        with torch.autocast("cpu", torch.bfloat16):
            assert map_batch(function, x).requires_grad
    assert modes == [(False, torch.float32)] * 2 + [(True, torch.bfloat16)] * 2


def test_a_map_within_a_piece_and_a_single_row_are_plain_calls():
    lengths = []

    def inner(x):
        lengths.append(len(x))
        return x

    with splitting(2, 2):
        map_batch(lambda x: map_batch(inner, x), torch.arange(8.0))
        map_batch(inner, torch.arange(1.0))
    assert sorted(lengths) == [1, 4, 4]


def test_none_stays_none_and_rows_fewer_than_pieces_are_pieces():
    seen = []

    def function(x, nothing):
        seen.append((len(x), nothing))
        return x

    with splitting(8, 2):
        map_batch(function, torch.arange(3.0), None)
    assert seen == [(1, None)] * 3


def test_settings():
    with pytest.raises(UserError, match="pieces=0"):
        parallel.set_pieces(0)
    with splitting(5, 3):
        assert (parallel.get_pieces(), parallel.get_threads()) == (5, 3)
        with splitting(pieces=2):
            assert parallel.get_threads() == 2


def cores(**environment):
    code = "from threestudio_asd.cores import cores; print(cores())"
    own = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", code]
    return int(subprocess.check_output(command, env={**own, **environment}, text=True))


@pytest.mark.slow
def test_cores_follow_affinity_and_the_one_setting():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity on this system")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
        assert cores(OMP_NUM_THREADS="3") == 3
        assert cores(OMP_NUM_THREADS="4,2") == 4
    finally:
        os.sched_setaffinity(0, before)
