"""Processes whose loss costs one task. (The tasks here need no torch: a process begins fast.)"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from fakes import alive, wait_for

from threestudio_asd.compare.run import memory
from threestudio_asd.compare.run.pool import Pool
from threestudio_asd.errors import UserError


def begin(folder):
    return partial(task, Path(folder))


def task(folder, what):
    """``NAME:SECONDS`` or ``NAME:DEED``; a file says in which process it began."""
    name, _, deed = what.partition(":")
    with (folder / f"{name}.begun").open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    deeds = {
        "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "terminated": lambda: os.kill(os.getpid(), signal.SIGTERM),
        "exit": lambda: os._exit(3),
        "user": lambda: fail(UserError("put it right")),
        "odd": lambda: fail(Odd("two", "arguments")),
        "grown": lambda: grow_and_die(200 * 2**20),
        "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
        "hangup": lambda: os.kill(os.getpid(), signal.SIGHUP),
    }
    (deeds.get(deed) or (lambda: time.sleep(float(deed))))()
    return name, os.getpid()


def fail(error):
    raise error


def grow_and_die(size):
    held = b"x" * size
    time.sleep(1.5)
    os.kill(os.getpid(), signal.SIGKILL)
    return held


class Odd(Exception):
    """Cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(one)


@pytest.fixture
def pool(tmp_path):
    with Pool(2, begin, (tmp_path,)) as pool:
        yield pool
    assert not multiprocessing.active_children()


def begun(folder, name):
    """The processes in which a task began."""
    path = folder / f"{name}.begun"
    return path.read_text().split() if path.exists() else []


def test_processes_are_kept_between_tasks(pool):
    tasks = [f"{i}:0" for i in range(12)]
    found = dict(pool.run(tasks))
    assert [found[t][0] for t in tasks] == [str(i) for i in range(12)]
    pids = {pid for _, pid in found.values()}
    assert len(pids) <= 2 and os.getpid() not in pids
    assert dict(pool.run(["again:0"]))["again:0"][1] in pids


@pytest.mark.parametrize(
    ("deed", "exitcode"), [("killed", -9), ("segfault", -11), ("terminated", -15), ("exit", 3)]
)
def test_a_loss_costs_one_task(pool, tmp_path, deed, exitcode):
    found = dict(pool.run(["neighbour:1.5", f"bad:{deed}", "a:0", "b:0"]))
    assert found[f"bad:{deed}"].exitcode == exitcode
    assert [found[t][0] for t in ("neighbour:1.5", "a:0", "b:0")] == ["neighbour", "a", "b"]
    assert len(begun(tmp_path, "neighbour")) == 1


def test_an_idle_loss_costs_nothing(pool):
    pids = {pid for _, pid in dict(pool.run(["a:0.3", "b:0.3"])).values()}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    # Not by /proc, which may call a process dead whose threads are still ending.
    wait_for(lambda: not any(worker.process.is_alive() for worker in pool._workers))
    found = dict(pool.run(["c:0", "d:0"]))
    assert not {pid for _, pid in found.values()} & pids


@pytest.mark.parametrize(
    ("counts", "short"),
    [([0, 0], False), ([0, 1], True), ([None, None], True)],
)
def test_memory_ran_short_if_the_kernel_says_so_or_nothing(tmp_path, monkeypatch, counts, short):
    told = iter(counts)
    monkeypatch.setattr(memory, "oom_kills", lambda: next(told))
    with Pool(2, begin, (tmp_path,)) as pool:
        assert dict(pool.run(["a:killed"]))["a:killed"].memory_short is short


def test_each_kill_of_the_kernel_counts_for_one_process(tmp_path, monkeypatch):
    told = iter([5, 6, 6])
    monkeypatch.setattr(memory, "oom_kills", lambda: next(told))
    with Pool(1, begin, (tmp_path,)) as pool:
        found = dict(pool.run(["a:segfault", "b:killed", "c:killed"]))
    assert [loss.memory_short for loss in found.values()] == [False, True, False]


def test_the_peak_of_a_lost_process_is_known(pool):
    if memory.peak_mb() is None:
        pytest.skip("the system does not tell")
    found = dict(pool.run(["a:grown", "b:killed"]))
    assert 200 < found["a:grown"].peak_mb < 400
    assert found["b:killed"].peak_mb is None or found["b:killed"].peak_mb < 100


def test_fewer_jobs_end_a_process_and_run_no_more_at_a_time(pool, tmp_path):
    pids = {pid for _, pid in dict(pool.run(["a:0.5", "b:0.5"])).values()}
    assert len(pids) == 2
    pool.jobs = 1
    found = dict(pool.run([f"{i}:0.1" for i in range(3)]))
    assert len({pid for _, pid in found.values()} & pids) == 1
    assert len(multiprocessing.active_children()) == 1


def test_an_exception_ends_the_run_after_what_runs(pool, tmp_path):
    found = {}
    with pytest.raises(UserError, match="put it right") as raised:
        for name, result in pool.run(["neighbour:1.5", "bad:user", "later:0", "last:0"]):
            found[name] = result
    assert list(found) == ["neighbour:1.5"]
    assert "in task" in str(raised.value.__cause__)
    assert not begun(tmp_path, "last")


def test_an_exception_that_cannot_travel_is_told_in_words(pool):
    with pytest.raises(RuntimeError, match="Odd: two"):
        list(pool.run(["bad:odd"]))


def test_processes_started_early_import_and_wait_for_their_tasks(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needed_early.py").write_text(
        f"import os, pathlib\npathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()\n"
    )
    with Pool(2, imports=["needed_early"]) as pool:
        pool.start()
        wait_for(lambda: len([p for p in tmp_path.iterdir() if p.name.isdigit()]) == 2)
        pool.begin(begin, (tmp_path,))
        found = dict(pool.run(["a:0.5", "b:0.5"]))
    for _, pid in found.values():
        assert (tmp_path / str(pid)).exists()


def test_processes_started_early_that_nobody_needs_end(tmp_path):
    with Pool(2, imports=["json"]) as pool:
        pool.start()
        pool.jobs = 1
        pool.begin(begin, (tmp_path,))
        assert len({pid for _, pid in dict(pool.run(["a:0", "b:0"])).values()}) == 1
    with Pool(2, imports=["json"]) as pool:
        pool.start()
        pool.end()
        assert not multiprocessing.active_children()


def test_an_import_that_fails_ends_the_run(tmp_path):
    with Pool(2, imports=["no_such_module_here"]) as pool:
        pool.start()
        pool.begin(begin, (tmp_path,))
        with pytest.raises(ModuleNotFoundError, match="no_such_module_here"):
            list(pool.run(["a:0", "b:0", "c:0"]))


def fail_to_begin(how):
    if how == "exit":
        os._exit(4)
    raise UserError("no such plugin")


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [("raise", UserError, "no such plugin"), ("exit", RuntimeError, "exit status 4")],
)
def test_processes_that_cannot_begin_end_the_run(how, error, message):
    with Pool(2, fail_to_begin, (how,)) as pool, pytest.raises(error, match=message):
        list(pool.run(["a:0", "b:0", "c:0"]))


def test_processes_leave_ctrl_c_and_hangup_to_their_parent(pool):
    found = dict(pool.run(["a:interrupt", "b:hangup"]))
    assert {name for name, _ in found.values()} == {"a", "b"}


def test_what_still_runs_is_killed_when_the_block_is_left(tmp_path):
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError), Pool(2, begin, (tmp_path,)) as pool:
        for _ in pool.run(["a:0", "b:3600", "c:3600"]):
            raise ZeroDivisionError
    assert time.monotonic() - began < 20 and not multiprocessing.active_children()


PARENT = """
import sys
sys.path.insert(0, {folder!r})
from test_pool import begin, Pool
if __name__ == "__main__":
    with Pool(2, begin, ({out!r},)) as pool:
        list(pool.run(["a:3600", "b:3600"]))
"""


def test_processes_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(folder=str(Path(__file__).parent), out=str(tmp_path)))
    parent = subprocess.Popen([sys.executable, str(script)])
    wait_for(lambda: begun(tmp_path, "a") and begun(tmp_path, "b"))
    pids = [int(*begun(tmp_path, name)) for name in "ab"]
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(alive, pids)))
