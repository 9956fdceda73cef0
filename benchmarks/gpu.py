"""Every figure that needs a GPU, in about ten minutes: each part in a process with a time limit.

    python benchmarks/gpu.py [--device cuda] [--parts NAME ...] [--out FILE] [--again] [--reduced]

- kernels: each kernel against its torch reference: times, ratio, largest relative error.
- raster: the rasteriser on 20,000 triangles.
- scenes: iterations per second and peak memory of trainings, and their share outside UNet and VAE.
- waits: where a training step waits for the device, and how often.
- step-fp32, step-fp16, step-bf16: the ASD step against the official schedule of passes at Stable
  Diffusion 2.1's size, with random weights.
- true-size: configs/asd-nerf.yaml on random weights of that size: iterations per second, memory.
- tests: those that do more where there is CUDA.

The report (benchmarks/results/gpu-HARDWARE.json) is written whole after every part. Started again
it goes on with the parts that are missing or ended in an error, with --again with all. The output
of a part that ended so is beside it, as FILE.NAME.log. --reduced makes everything small.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from gpu_parts import PARTS, ROOT, Setup, first_line
from report import RESULTS, describe, hardware

from threestudio_asd import homes
from threestudio_asd.files import written_whole

#: Seconds, imports and the compilation of kernels included.
LIMITS = {
    "kernels": 60,
    "raster": 30,
    "scenes": 90,
    "waits": 60,
    "step-fp32": 60,
    "step-fp16": 60,
    "step-bf16": 60,
    "true-size": 90,
    "tests": 150,
}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """All of ``value`` or, whatever happens, what was there."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def in_process(args: argparse.Namespace) -> int:
    """Run one part here, its figures to ``args.figures``; returns the exit status."""
    told: dict[str, Any] = {}

    def tell(figures: dict[str, Any]) -> None:
        nonlocal told
        told = figures
        write_json(args.figures, told)

    homes.temporary()
    homes.ensure_home()  # kernels are compiled into its cache
    try:
        PARTS[args.part_in_process](Setup(args.device, args.reduced, tell))
    except BaseException as error:
        traceback.print_exc()
        tell(told | {"error": first_line(error)})
        return 1
    return 0


def run_part(name: str, args: argparse.Namespace, log: Path) -> dict[str, Any]:
    """What the part found, in a process of its own whose output goes to ``log``."""
    limit = args.limit or LIMITS[name]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "figures.json")
        command = [sys.executable, str(Path(__file__).resolve()), "--part-in-process", name]
        command += ["--device", args.device, "--figures", str(file)]
        command += ["--reduced"] if args.reduced else []
        began, ran_past = time.perf_counter(), False
        with log.open("wb") as stream:
            process = subprocess.Popen(
                *(command,),
                **{"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT},
                **{"env": environment(args.device), "start_new_session": True},
            )
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                ran_past = True
            finally:
                kill_session(process)
        found = {"seconds": round(time.perf_counter() - began, 1)} | read_json(file)
    if ran_past:
        found["error"] = f"ran past {limit:g} s"
    elif process.returncode and "error" not in found:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        found["error"] = f"status {process.returncode}: {lines[-1]}"
    return found


def kill_session(process: subprocess.Popen) -> None:
    """End the process and whatever it started and left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment(device: str) -> dict[str, str]:
    """Of a part: this checkout first, and no path that depends on the working folder."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, paths))}
    found |= {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    if device == "cpu":
        found["CUDA_VISIBLE_DEVICES"] = ""  # trainings choose CUDA where they see it
    return found


def described(args: argparse.Namespace) -> dict[str, Any]:
    """The machine and its software."""
    found = describe(torch.device(args.device)) | {"cuda": torch.version.cuda, "driver": None}
    if args.device == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            out = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout
            found["driver"] = (out.splitlines() or [None])[0]
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"driver not known: {error}", flush=True)
    installed = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    for package in ("warp-lang", "diffusers", "pytorch-lightning"):
        found[package] = installed.get(package)
    return found | {"python": sys.version.split()[0], "reduced": args.reduced}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--again", action="store_true", help="measure finished parts anew")
    parser.add_argument("--reduced", action="store_true", help="everything small, as a test")
    parser.add_argument("--limit", type=float, help="seconds for each part, in place of its own")
    parser.add_argument("--part-in-process", choices=tuple(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--figures", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu measures the CPU.")
    if args.part_in_process:
        return in_process(args)

    torch.set_num_threads(1)  # as the parts do
    slug = re.sub(r"[^a-z0-9]+", "-", hardware(args.device).lower()).strip("-")
    out = args.out or RESULTS / f"gpu-{slug}{'-reduced' if args.reduced else ''}.json"
    machine, before = described(args), read_json(out)
    for key in ("hardware", "reduced"):
        if before and before["machine"][key] != machine[key]:
            parser.error(f"{out} is of {key} {before['machine'][key]}: choose another --out.")
    parts: dict[str, Any] = before.get("parts", {})
    report = {"machine": machine, "parts": parts}
    write_json(out, report)
    print(f"{machine['hardware']}: {out}", flush=True)
    for name in [name for name in PARTS if name in args.parts]:
        if "error" not in parts.get(name, {"error": "not run"}) and not args.again:
            print(f"{name}: there already", flush=True)
            continue
        print(f"{name}: begins, {args.limit or LIMITS[name]:g} s at most", flush=True)
        log = out.with_name(f"{out.name}.{name}.log")
        parts[name] = found = run_part(name, args, log)
        write_json(out, report)
        if "error" not in found:
            log.unlink()
        told = f"error: {found['error']}" if "error" in found else found.get("headline", "")
        print(f"{name}: {found['seconds']} s, {told}", flush=True)
    return int(any("error" in parts[name] for name in args.parts))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
