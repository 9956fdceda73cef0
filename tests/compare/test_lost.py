"""Cells whose process is killed. (Top-level imports are light: processes import this module.)"""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from fakes import children, start_compare, wait_for

from threestudio_asd.compare.run import memory
from threestudio_asd.compare.run.pool import Loss, Pool

PLUGINS = ("threestudio_asd.studio.data", "threestudio_asd.studio.models")
PLUGINS += ("threestudio_asd.guidance", "threestudio_asd.systems")


class Task(NamedTuple):
    name: str
    deaths: int = 0  # how many of its tries kill their process


def begin(log):
    return partial(run, log)


def run(log, task):
    """Writes its name with + when it begins, - when it ends, ! when its process is killed."""
    tries = log.read_text().count(f"+{task.name} ")
    with log.open("a") as stream:
        print(f"+{task.name}", end=" ", file=stream, flush=True)
        time.sleep(0.2)
        if tries < task.deaths:
            print(f"!{task.name}", end=" ", file=stream, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        print(f"-{task.name}", end=" ", file=stream, flush=True)
    return task.name


@pytest.fixture
def log(tmp_path):
    (tmp_path / "log").touch()
    return tmp_path / "log"


def run_all(log, jobs, tasks):
    """Results, the jobs in the end, and [(what happened to which, how many run then)]."""
    from threestudio_asd.compare.run.lost import run_again

    with Pool(jobs, begin, (log,)) as pool:
        found = dict(run_again(pool, tasks))
    events, running = [], 0
    for event in log.read_text().split():
        running += 1 if event[0] == "+" else -1
        events.append((event, running))
    return found, pool.jobs, events


def test_killed_tasks_are_run_again_after_the_others(log, monkeypatch):
    monkeypatch.setattr(memory, "oom_kills", lambda: 0)
    tasks = [Task("bad", 1), Task("worse", 1), *(Task(str(i)) for i in range(6))]
    found, jobs, events = run_all(log, 3, tasks)
    assert found == {task: task.name for task in tasks} and jobs == 3
    begun = [event for event, _ in events if event[0] == "+"]
    assert len(begun) == 10 and set(begun[-2:]) == {"+bad", "+worse"}


def test_fewer_run_at_a_time_once_memory_ran_short(log, monkeypatch):
    monkeypatch.setattr(memory, "oom_kills", lambda: log.read_text().count("!"))
    tasks = [Task("large", 1), *(Task(str(i)) for i in range(8))]
    found, jobs, events = run_all(log, 4, tasks)
    assert found == {task: task.name for task in tasks} and jobs == 3
    names = [event for event, _ in events]
    assert max(running for _, running in events[names.index("!large") :]) <= 3
    assert events[-2] == ("+large", 1)  # alone


def test_a_task_is_given_up_after_its_second_death(log, monkeypatch):
    monkeypatch.setattr(memory, "oom_kills", lambda: 0)
    found, _, events = run_all(log, 2, [Task("bad", 9), Task("good")])
    assert [event for event, _ in events].count("!bad") == 2
    assert found[Task("good")] == "good" and found[Task("bad", 9)].exitcode == -9


def kill_one(out, killed):
    """A process of this one's, once a first cell is there."""
    wait_for(lambda: list(out.glob("cells/*.json")))
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children(os.getpid())}
    killed.append(next(pid for pid, line in lines.items() if "spawn_main" in line))
    os.kill(killed[0], signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_process_changes_no_figure(small, tmp_path):
    from threestudio_asd.compare.run.runner import run_grid

    grid = small(seeds=[0, 1])
    assert len(grid.cells) == 8
    undisturbed = run_grid(grid, tmp_path / "undisturbed")
    out, killed = tmp_path / "disturbed", []
    killer = threading.Thread(target=kill_one, args=(out, killed), daemon=True)
    killer.start()
    disturbed = run_grid(grid, out, jobs=2, plugins=PLUGINS)
    killer.join()
    assert killed
    of_the_machine = ("seconds", "seconds_in_all", "peak_memory_mb", "machine")
    for cell, record in undisturbed.items():
        found = disturbed[cell]
        assert all(record[k] == found[k] for k in record if k not in of_the_machine), cell.name


STARTING = """
base: tiny/asd-2d
prompts: [a red mug]
seeds: [0]
scales: [3]
steps: 2
methods:
  SDS:
    overrides: {system.guidance.method: sds}
  VSD:
    overrides: {system.guidance.method: vsd}
    start_from: "SDS at 100"
  "SDS at 100":
    overrides: {system.guidance.method: sds}
    scale: 100
"""


@pytest.mark.slow
def test_a_cell_that_always_dies_is_named_and_the_others_shown(tmp_path):
    (tmp_path / "grid.yaml").write_text(STARTING)
    flags = ["--config", str(tmp_path / "grid.yaml"), "--jobs", "2"]
    command = start_compare(tmp_path, *flags, KILLED_AT="100")
    told, said = command.communicate()
    assert command.returncode == 1
    last = said.splitlines()[-1]
    assert last.startswith("error: compare: 1 cell missing, killed twice")
    assert "sds_at_100_s100_a_red_mug_seed0: killed" in last and "--jobs 1" in last
    assert ", and 1 cell to start from there" in last
    assert [path.name for path in tmp_path.glob("cells/*.json")] == ["sds_s3_a_red_mug_seed0.json"]
    assert str(tmp_path / "index.html") in told and (tmp_path / "index.html").is_file()


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (Loss(-9, True, 3120.4), "killed because memory ran short, at 3120 MB or more"),
        (Loss(-11, False, None), "killed by SIGSEGV)"),
        (Loss(3, False, 10.0), "ended with exit status 3, at 10 MB or more"),
    ],
)
def test_how_a_process_ended_is_told(small, loss, words):
    from threestudio_asd.compare.run.lost import CellsLost

    told = str(CellsLost({small().cells[0]: loss}, []))
    assert f"sds_s1_a_red_mug_seed0: {words}" in told and "--jobs 1" in told
    assert ("a machine with more" in told) is loss.memory_short


@pytest.mark.slow
def test_an_error_of_a_cell_ends_the_grid(small, tmp_path, monkeypatch):
    from threestudio_asd.compare.run.runner import run_grid

    monkeypatch.setenv("WRONG_AT", "7.5")
    with pytest.raises(ValueError, match="a wrong cell") as raised:
        run_grid(small(), tmp_path, jobs=2, plugins=(*PLUGINS, "fake_training"))
    assert "in run_cell" in str(raised.value.__cause__)
