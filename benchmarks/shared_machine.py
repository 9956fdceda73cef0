"""Trainings on the CPU, alone and beside each other, against another checkout of this project.

    python benchmarks/shared_machine.py [--against CHECKOUT] [--parts lone crowd quota compare]
        [--steps 80] [--rounds 5] [--save NAME]

Whole commands, start and test included: benchmarks/nerf.yaml for a few steps.

- lone: one command; ours and the other checkout's alternate.
- crowd: two and four of ours at once.
- quota: ours in a cgroup that leaves one CPU, and on one thread without a quota, in turn. Where
  cgroups cannot be written, it is skipped.
- compare: a small grid of images by one job on one thread, one job, and two jobs.

Prints the median of each and the ratios; --save writes benchmarks/results/shared-machine-NAME.json.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training import step_ends

HERE = Path(__file__).parent.parent
ONE = {"OMP_NUM_THREADS": "1"}
PARTS = ("lone", "crowd", "quota", "compare")
GRID = ("--prompts", "a red mug", "a green chair", "--seeds", "0", "1", "--scales", "7.5", "30")


def one_run(steps: int) -> None:
    """Train in this process; prints the median time of a step in the second half, in seconds."""
    ends = step_ends(steps)
    late = ends[len(ends) // 2 :]
    print(statistics.median(b - a for a, b in itertools.pairwise(late)))


def train(steps: int, checkout: Path = HERE, copies: int = 1, **options: Any) -> dict[str, float]:
    """Seconds of a whole command and of a step; means over ``copies`` that run at once."""
    command = [sys.executable, __file__, "--train", "--steps", str(steps)]
    environment = {**os.environ, "PYTHONPATH": str(checkout), **options.pop("environment", {})}
    began = time.perf_counter()
    processes = [
        subprocess.Popen(
            *(command,),
            **{"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True},
            **{"env": environment, "cwd": tempfile.gettempdir(), **options},
        )
        for _ in range(copies)
    ]
    whole, step = [], []
    for process in processes:
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"a training of {checkout} failed: {' '.join(command)}")
        whole.append(time.perf_counter() - began)
        step.append(float(out.splitlines()[-1]))
    return {"command": statistics.mean(whole), "step": statistics.mean(step)}


@contextlib.contextmanager
def quota_of_one_cpu() -> Iterator[Path | None]:
    """A cgroup with a quota of one CPU, or None where none can be made."""
    root = Path("/sys/fs/cgroup")
    v2 = (root / "cgroup.controllers").exists()
    folder = (root if v2 else root / "cpu") / f"threestudio-asd-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        yield None
        return
    try:
        if v2:
            (folder / "cpu.max").write_text("100000 100000")
        else:
            (folder / "cpu.cfs_period_us").write_text("100000")
            (folder / "cpu.cfs_quota_us").write_text("100000")
        yield folder
    except OSError:
        yield None
    finally:
        folder.rmdir()


def compare(steps: int, jobs: int, environment: dict[str, str]) -> dict[str, float]:
    """Cells per hour of a grid of eight."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "threestudio_asd.cli.main", "compare", *GRID]
        command += ["--methods", "ASD -0.75", "--steps", str(steps), "--jobs", str(jobs)]
        command += ["--out", folder]
        began = time.perf_counter()
        env = {**os.environ, "PYTHONPATH": str(HERE), **environment}
        subprocess.run(command, check=True, capture_output=True, env=env)
        cells = len([*Path(folder).glob("cells/*.json")])
        return {"cells_per_hour": 3600 * cells / (time.perf_counter() - began)}


def measurements(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """One round: name and figures of each run."""
    steps = args.steps
    if "lone" in args.parts:
        yield "lone", train(steps)
        if args.against:
            yield "lone, the other checkout", train(steps, args.against)
    if "crowd" in args.parts:
        yield "two at once", train(steps, copies=2)
        yield "four at once", train(steps, copies=4)
    if "quota" in args.parts:
        yield "one thread", train(steps, environment=ONE)
        with quota_of_one_cpu() as group:
            if group is None:
                print("quota: skipped, no cgroup can be written here", flush=True)
            else:
                tasks = str(group / "cgroup.procs")
                join = {"preexec_fn": lambda: Path(tasks).write_text(str(os.getpid()))}
                yield "quota of one CPU", train(steps, **join)
    if "compare" in args.parts:
        yield "one job on one thread", compare(steps, 1, ONE)
        yield "one job", compare(steps, 1, {})
        yield "two jobs", compare(steps, 2, {})


RATIOS = (
    ("lone run, times as fast", "lone, the other checkout", "lone", "command"),
    ("lone step, times as fast", "lone, the other checkout", "lone", "step"),
    ("two at once, each against lone", "two at once", "lone", "command"),
    ("four at once, each against lone", "four at once", "lone", "command"),
    ("quota of one CPU against one thread", "quota of one CPU", "one thread", "command"),
    ("two jobs against one on one thread", "two jobs", "one job on one thread", "cells_per_hour"),
    ("two jobs against one", "two jobs", "one job", "cells_per_hour"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout's folder")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        one_run(args.steps)
        return
    runs: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        for name, figures in measurements(args):
            runs.setdefault(name, []).append(figures)
            print(name, {key: round(value, 3) for key, value in figures.items()}, flush=True)
    median = {
        name: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for name, found in runs.items()
    }
    ratios = {
        text: median[a][key] / median[b][key]
        for text, a, b, key in RATIOS
        if a in median and b in median
    }
    for text, ratio in ratios.items():
        print(f"{text}: {ratio:.2f}")
    if args.save:
        from report import hardware, write

        described = {"hardware": hardware("cpu"), "cores": os.cpu_count(), "steps": args.steps}
        write(f"shared-machine-{args.save}", described | {"ratios": ratios, "runs": runs})


if __name__ == "__main__":
    main()
