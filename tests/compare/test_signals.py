"""A comparison that is asked to stop."""

import os
import signal
import subprocess
import sys
import time

import pytest
from fakes import SMALL, alive, children, start_compare, wait_for

from threestudio_asd.compare.runner import run_cell, run_grid
from threestudio_asd.compare.signals import Stopped, stoppable


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

    with pytest.raises(Stopped, match="SIGTERM"), stoppable():
        run_cell(small(steps=20), cell, tmp_path, stop)
    assert steps == [1] and not list(tmp_path.glob("cells/*"))
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_what_fails_after_a_stop_is_the_stop():
    with pytest.raises(Stopped) as raised, stoppable():
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        finally:
            raise OSError("the terminal is closed")
    assert raised.value.status == 129
    with pytest.raises(OSError), stoppable():
        raise OSError


SCRIPT = """
import os, signal, sys, time
from threestudio_asd.compare.signals import stoppable
with stoppable():
    try:
        print("begun", flush=True)
        time.sleep(float(sys.argv[1]))
    finally:
        time.sleep(float(sys.argv[1]))
print("the end")
"""


def test_a_second_signal_ends_at_once():
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, "60"], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    process.stdout.close()


def test_what_nohup_ignores_stays_ignored():
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "-", sys.executable, "-c", SCRIPT, "0.5"]
    process = subprocess.Popen(ignoring, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate()[0] == "the end\n" and process.returncode == 0
