"""A training that is stopped: signals at every place of a run of the toy system."""

import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toy_extension  # noqa: F401  (registers the toy in this process)
from core_launch import ROOT, TRIAL, launch, launch_process, losses, prepare, prepare_here

LAST = TRIAL / "ckpts/last.ckpt"
ARGUMENTS = ("--config", "toy.yaml", "--train")
TERM = "system.signal_name=SIGTERM"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder for runs in this process."""
    return prepare_here(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """An uninterrupted run of 6 steps."""
    folder = tmp_path_factory.mktemp("whole")
    prepare(folder)
    assert launch_process(folder, *ARGUMENTS).returncode == 0
    return folder


def checkpoint(folder=Path()):
    return torch.load(folder / LAST, weights_only=True)


def no_test_ran(folder=Path()):
    return not list((folder / TRIAL).glob("save/*-test"))


def assert_equal_trainings(left, right):
    """Losses, weights and optimiser states, to the last bit."""
    assert losses(left) == losses(right)
    left, right = checkpoint(left), checkpoint(right)
    assert left["global_step"] == right["global_step"]
    assert torch.equal(left["state_dict"]["weight"], right["state_dict"]["weight"])
    states = [ckpt["optimizer_states"][0]["state"][0] for ckpt in (left, right)]
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_saves_and_the_printed_command_goes_on(whole_run, tmp_path, name, status):
    prepare(tmp_path)
    signals = ("system.signal_step=2", f"system.signal_name={name}")
    stopped = launch_process(tmp_path, *ARGUMENTS, *signals)
    assert stopped.returncode == status, stopped.stderr
    assert sorted(losses(tmp_path)) == [0, 1, 2]
    assert checkpoint(tmp_path)["global_step"] == 3
    assert no_test_ran(tmp_path)
    assert stopped.stderr.splitlines()[-1] == f"stopped by {name}"
    metrics = (tmp_path / TRIAL / "csv_logs/version_0/metrics.csv").read_text()
    assert "\n0,,2," in metrics  # the last step's log is not lost
    assert f"Saved {LAST} at step 3. To go on: " in stopped.stderr
    (line,) = (x for x in stopped.stderr.splitlines() if "To go on: " in x)
    program, script, *arguments = shlex.split(line.partition("To go on: ")[2])
    assert (program, script) == ("python", str(ROOT / "launch.py"))
    resumed = launch_process(tmp_path, *arguments, "system.signal_step=-1")
    assert resumed.returncode == 0, resumed.stderr
    assert_equal_trainings(tmp_path, whole_run)
    assert (tmp_path / TRIAL / "save/it6-test/1.json").is_file()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_second_signal_ends_at_once(folder, name):
    again = (f"system.signal_name={name}", "system.signal_again=0.6")
    status = 128 + getattr(signal, name)
    assert launch("--train", "system.signal_step=3", *again) == status
    # The step was not finished: what is there was written after the third one.
    assert sorted(losses()) == [0, 1, 2]
    assert checkpoint()["global_step"] == 3
    assert no_test_ran()


def test_signals_of_one_stop_count_as_one(folder):
    # As `timeout` sends them: to the process and to its group.
    assert launch("--train", TERM, "system.signal_step=3", "system.signal_again=0.01") == 143
    assert checkpoint()["global_step"] == 4


@pytest.mark.parametrize(
    ("again", "step"),
    [(-1.0, 4), (0.6, 3)],  # the new checkpoint; the one before
)
def test_a_signal_amid_a_checkpoint_leaves_a_whole_one(folder, whole_run, again, step):
    where = ("system.signal_place=save", "system.signal_step=4", f"system.signal_again={again}")
    assert launch("--train", TERM, *where) == 143
    assert checkpoint()["global_step"] == step
    assert list(folder.rglob("*.partial")) == []
    assert launch("--train", f"resume={LAST}") == 0
    assert_equal_trainings(folder, whole_run)


def test_a_signal_in_a_validation_saves_after_it(folder, whole_run):
    where = ("system.signal_place=validation", "system.signal_step=4", "checkpoint.save_last=false")
    assert launch("--train", TERM, *where) == 143
    assert (TRIAL / "save/it4-1.png").is_file()
    assert checkpoint()["global_step"] == 4
    assert max(losses()) == 3
    assert launch("--train", f"resume={LAST}") == 0
    assert_equal_trainings(folder, whole_run)


def test_a_signal_with_the_last_step_leaves_the_test_to_the_next_time(folder, whole_run):
    assert launch("--train", TERM, "system.signal_step=5") == 143
    assert checkpoint()["global_step"] == 6
    assert no_test_ran()
    assert launch("--train", f"resume={LAST}") == 0
    assert_equal_trainings(folder, whole_run)
    assert (TRIAL / "save/it6-test/1.json").is_file()


def test_a_signal_in_the_test_ends_it_at_once(folder, capsys):
    assert launch("--train", TERM, "system.signal_place=test", "system.signal_step=6") == 143
    assert not (TRIAL / "save/it6-test/1.json").exists()
    assert checkpoint()["global_step"] == 6
    assert capsys.readouterr().err.endswith("stopped by SIGTERM\n")


def test_a_hangup_that_was_ignored_from_the_start_stays_ignored(folder):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert launch("--train", "system.signal_name=SIGHUP", "system.signal_step=2") == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert sorted(losses()) == list(range(6))


@pytest.mark.slow
def test_a_closed_terminal_saves(tmp_path):
    prepare(tmp_path)
    command = [sys.executable, str(ROOT / "launch.py"), *ARGUMENTS, "system.pause=0.05"]
    command += ["trainer.max_steps=2000", "trainer.enable_progress_bar=true"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.environ.update(CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
        os.execv(sys.executable, command)
    try:
        wait_for(lambda: (tmp_path / LAST).is_file(), seconds=180)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert checkpoint(tmp_path)["global_step"] == max(losses(tmp_path)) + 1
    assert no_test_ran(tmp_path)


def test_a_signal_while_it_starts_ends_it_promptly(tmp_path):
    prepare(tmp_path)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-X", "importtime", str(ROOT / "launch.py"), *ARGUMENTS]
    options = {"cwd": tmp_path, "env": environment, "text": True}
    with subprocess.Popen(command, stderr=subprocess.PIPE, **options) as process:
        while " torch._C" not in process.stderr.readline():  # amid the imports
            pass
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 143
    assert rest.endswith("stopped by SIGTERM\n")
    assert not (tmp_path / "outputs").exists()


def wait_for(condition, seconds=60):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.02)
