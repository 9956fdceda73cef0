"""A comparison that is asked to stop."""

import os
import signal
import time

import pytest
from fakes import SMALL, alive, children, start_compare, wait_for

from threestudio_asd.compare.run.runner import run_cell, run_grid
from threestudio_asd.stop import SIGNALS, Stopped, heeded


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "jobs", "send"),
    [(signal.SIGTERM, 2, os.kill), (signal.SIGINT, 2, os.killpg), (signal.SIGHUP, 1, os.kill)],
)
def test_a_stopped_command_leaves_its_cells_and_no_process(
    small, trained, tmp_path, number, jobs, send
):
    command = start_compare(tmp_path, *SMALL, "--jobs", str(jobs), SLOW_AT="7.5")
    wait_for(lambda: list(tmp_path.glob("cells/*.json")))
    started = children(command.pid)
    assert len(started) >= jobs - 1
    send(command.pid, number)
    sent = time.monotonic()
    _, said = command.communicate()
    assert command.returncode == 128 + number and time.monotonic() - sent < 10
    wait_for(lambda: not any(map(alive, started)), seconds=5)  # Python's own helper ends last
    assert "Traceback" not in said
    there = len(list(tmp_path.glob("cells/*.json")))
    line = f"stopped by {number.name}: {there} of 4 cells are there; the same command goes on."
    assert said.splitlines()[-1] == line
    assert len(run_grid(small(), tmp_path)) == 4 and len(trained) == 4 - there


def test_a_stop_in_the_middle_of_a_real_training(small, tmp_path):
    """Lightning has handlers of its own then."""
    (cell,) = small(scales=[1.0], methods=["SDS"], steps=20).cells
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    steps = []

    def stop(cell, step):
        steps.append(step)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="SIGTERM"), heeded(SIGNALS):
        run_cell(small(steps=20), cell, tmp_path, stop)
    assert steps == [1] and not list(tmp_path.glob("cells/*"))
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
