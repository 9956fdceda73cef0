"""Training on the CPU with and without ``studio.device.keep_freed_memory``.

    python benchmarks/cpu_allocator.py [--steps 60] [--rounds 2] [--threads 2] [--save NAME]

Alternates short trainings of benchmarks/nerf.yaml, each in a process of its own, that differ
in this only. Prints steps per second (the first third of a run is warm-up), their ratio, and the
peak memory; --save writes benchmarks/results/cpu-allocator-NAME.json.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys

from report import write
from training import step_ends


def one_run(steps: int, keep: bool) -> dict[str, float]:
    """Steps per second and peak memory (MiB) of one training in this process."""
    from threestudio_asd.studio import device

    if not keep:
        device.keep_freed_memory = lambda: False
    ends = step_ends(steps, "data.n_test_views=1", "trainer.val_check_interval=100000")
    timed = ends[steps // 3 :]
    return {
        "steps_per_second": (len(timed) - 1) / (timed[-1] - timed[0]),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--save")
    parser.add_argument("--side", choices=("keep", "return"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(one_run(args.steps, args.side == "keep")))
        return
    found: dict[str, list[dict[str, float]]] = {"keep": [], "return": []}
    for _ in range(args.rounds):
        for side, runs in found.items():
            command = [sys.executable, __file__, "--side", side, "--steps", str(args.steps)]
            env = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
            out = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
            runs.append(json.loads(out.stdout.splitlines()[-1]))
            print(side, runs[-1], flush=True)
    speed = {k: statistics.median(r["steps_per_second"] for r in v) for k, v in found.items()}
    report = {"threads": args.threads, "runs": found, "ratio": speed["keep"] / speed["return"]}
    print(f"keeping freed memory: {report['ratio']:.2f} times the steps per second")
    if args.save:
        write(f"cpu-allocator-{args.save}", {"hardware": args.save, **report})


if __name__ == "__main__":
    main()
