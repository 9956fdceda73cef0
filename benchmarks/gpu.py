"""Every figure of a CUDA card that the project asks for, in one command of about ten minutes.

    python benchmarks/gpu.py [--parts NAME ...] [--out FILE] [--again] [--device cpu] [--reduced]

kernels: each kernel against its torch reference. raster: the rasteriser. scenes: iterations per
second and peak memory of whole trainings, and the share of an iteration that the UNet's and the
encoder's forward passes take. waits: how often a training step makes the CPU wait for the card, by
the line that does. step-*: the ASD step at Stable Diffusion 2.1's size against the official
schedule of passes. true-size: the ASD NeRF of configs/asd-nerf.yaml on random weights of Stable
Diffusion 2.1's size. tests: the kernels' tests on the card.

Each part runs in a process of its own under its own time limit; its figures are written when it
ends, and the same command goes on with what is missing. --reduced makes everything small.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from report import RESULTS, describe, hardware

from threestudio_asd.files import written_whole

HERE = Path(__file__).parent
ROOT = HERE.parent
Figures = dict[str, Any]


def _script(name: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(HERE / name), *arguments], check=True)


def _saved(name: str, script: str, *arguments: str) -> Figures:
    """What a benchmark of its own writes for ``--save``, taken in here."""
    _script(script, *arguments, "--save", name)
    file = next(RESULTS.glob(f"*-{name}.json"))
    found = json.loads(file.read_text())
    file.unlink()
    return found


def kernels(device: str, reduced: bool) -> Figures:
    size = ("--points", "2000", "--rays", "64") if reduced else ()
    found = _saved("gpu-part", "kernels.py", "--device", device, *size)
    return {key: found[key] for key in ("points", "rays", "milliseconds")}


def raster(device: str, reduced: bool) -> Figures:
    size = ("--size", "32", "--seconds", "0.01") if reduced else ("--seconds", "0.5")
    found = _saved("gpu-part", "raster.py", "--device", device, *size)
    return {key: found[key] for key in ("triangles", "size", "milliseconds")}


def step(device: str, reduced: bool, dtype: str) -> Figures:
    """The report of asd_step.py, with the peak memory."""
    from asd_step import Case, compare, new_unet

    from threestudio_asd.critics.lora import LoRACritic
    from threestudio_asd.distill import NoiseSchedule
    from threestudio_asd.teachers.unet import DTYPES, FrozenUNet

    torch.manual_seed(0)
    with torch.device(device):  # hundreds of millions of weights are drawn faster there
        unet = new_unet("tiny" if reduced else "sd").to(DTYPES[dtype])
    net = FrozenUNet(unet, NoiseSchedule.scaled_linear().to(device))
    critic = LoRACritic(net)
    cases = {name: Case(net, critic, name == "perp_neg") for name in ("plain", "perp_neg")}
    found = compare(cases, 2 if reduced else 15, device)
    return {"unet": "tiny" if reduced else "sd", **found, "peak_memory_mb": _peak_mb(device)}


def _peak_mb(device: str) -> int | None:
    return round(torch.cuda.max_memory_allocated() / 2**20) if device == "cuda" else None


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class Networks:
    """The seconds that forward passes of UNets and encoders take; backward is not counted."""

    def __init__(self, device: str) -> None:
        from diffusers import UNet2DConditionModel
        from diffusers.models.autoencoders.vae import Encoder

        self.kinds, self.device = (UNet2DConditionModel, Encoder), device
        self.seconds, self.began = 0.0, 0.0
        hooks = torch.nn.modules.module
        self.handles = (
            hooks.register_module_forward_pre_hook(self._begin),
            hooks.register_module_forward_hook(self._end),
        )

    def _begin(self, module: torch.nn.Module, _inputs: Any) -> None:
        if isinstance(module, self.kinds):
            _synchronize(self.device)
            self.began = time.perf_counter()

    def _end(self, module: torch.nn.Module, _inputs: Any, _output: Any) -> None:
        if isinstance(module, self.kinds):
            _synchronize(self.device)
            self.seconds += time.perf_counter() - self.began

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _timed(config: str, device: str, reduced: bool, *overrides: str) -> Figures:
    """Iterations per second after a warm-up, then the networks' share in as many again."""
    from training import Enough, step_ends

    warm, some = (1, 1) if reduced else (30, 40)
    networks: list[Networks] = []
    share: list[float] = []

    def end_of_step(step: int, system: Any) -> None:
        _synchronize(device)
        if step == warm + some:
            networks.append(Networks(device))
        if step == warm + 2 * some:
            networks[0].remove()
            share.append(networks[0].seconds)
            raise Enough

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    ends = step_ends(warm + 2 * some + 1, *overrides, config=config, end_of_step=end_of_step)
    timed = ends[warm + some - 1] - ends[warm - 1]
    # The hook above reads no clock for the last step: from the step before to it, by itself.
    watched = time.perf_counter() - ends[warm + some - 1]
    return {
        "iterations_per_second": round(some / timed, 2),
        "forward_passes_of_networks": round(share[0] / watched, 3),
        "seconds_to_first_step": round(ends[0] - began, 1),
        "peak_memory_mb": _peak_mb(device),
    }


SMALL = (
    *("data.width=16", "data.height=16", "system.renderer.num_samples_per_ray=16"),
    *("data.batch_size=1", "system.geometry.pos_encoding_config.log2_hashmap_size=11"),
)
SMALL_2D = ("data.batch_size=1", "system.n_particles=1")


def scenes(device: str, reduced: bool) -> Figures:
    small = SMALL if reduced else ()
    return {
        "NeRF, ASD": _timed("tiny/asd-nerf", device, reduced, *small),
        "NeRF, SDS": _timed("tiny/sds-nerf", device, reduced, *small),
        "NeRF, VSD": _timed("tiny/vsd-nerf", device, reduced, *small),
        "2D, ASD": _timed("tiny/asd-2d", device, reduced, *(SMALL_2D if reduced else ())),
        "DMTet, ASD": _timed("tiny/asd-geometry", device, reduced, *_from_nerf(reduced)),
    }


def _from_nerf(reduced: bool) -> tuple[str, ...]:
    """Options of a geometry stage that starts from a NeRF of a few steps, trained here."""
    import shutil
    import tempfile

    from training import Enough, step_ends

    kept = Path(tempfile.mkdtemp()) / "nerf.ckpt"
    steps = 1 if reduced else 20

    def end_of_step(step: int, system: Any) -> None:
        if step == steps:
            trial = kept.parent / "trial"
            system.trainer.save_checkpoint(kept)
            shutil.copytree(Path(system.get_save_dir()).parent / "configs", trial / "configs")
            (trial / "ckpts").mkdir()
            kept.rename(trial / "ckpts" / "last.ckpt")
            raise Enough

    step_ends(
        steps + 1, *(SMALL if reduced else ()), config="tiny/asd-nerf", end_of_step=end_of_step
    )
    return (f"system.geometry_convert_from={kept.parent / 'trial/ckpts/last.ckpt'}",)


def waits(device: str, reduced: bool) -> Figures:
    if device != "cuda":
        return {"steps": None, "why": "only a CUDA device tells what waits for it"}
    return {
        "NeRF": _waits("tiny/asd-nerf"),
        "2D": _waits("tiny/asd-2d"),
        "DMTet": _waits("tiny/asd-geometry", *_from_nerf(False)),
    }


def _waits(config: str, *overrides: str) -> Figures:
    """Synchronising calls per step by line of ours, averaged over ten steps."""
    from training import Enough, step_ends

    steps, warm = 10, 10
    found: Counter[str] = Counter()

    def told(message: Any, category: Any, *args: Any, **kwargs: Any) -> None:
        if "synchroniz" in str(message):
            ours = [f for f in traceback.extract_stack() if "/threestudio_asd/" in f.filename]
            line = "elsewhere (backward, optimiser, trainer)"
            if ours:
                name = ours[-1].filename.rpartition("/threestudio_asd/")[2]
                line = f"{name}:{ours[-1].lineno} {ours[-1].line}"
            found[line] += 1

    def end_of_step(step: int, system: Any) -> None:
        if step == warm:
            warnings.simplefilter("always")
            warnings.showwarning = told
            torch.cuda.set_sync_debug_mode("warn")
        if step == warm + steps:
            torch.cuda.set_sync_debug_mode("default")
            raise Enough

    step_ends(warm + steps + 1, *overrides, config=config, end_of_step=end_of_step)
    lines = {line: round(count / steps, 1) for line, count in found.most_common()}
    return {"per_step": round(sum(found.values()) / steps, 1), "lines": lines}


def true_size(device: str, reduced: bool) -> Figures:
    import tempfile

    from threestudio_asd.tiny.random_sd import write_random_sd

    folder = write_random_sd(Path(tempfile.mkdtemp()) / "sd", sample_size=8 if reduced else 64)
    if not reduced:
        _grow(folder, device)
    model = [
        f"system.prompt_processor.pretrained_model_name_or_path={folder}",
        f"system.guidance.pretrained_model_name_or_path={folder}",
        f"system.guidance.pretrained_model_name_or_path_lora={folder}",
    ]
    small = (*SMALL[:2], *SMALL[2:]) if reduced else ()
    return _timed("asd-nerf", device, reduced, *model, *small)


def _grow(folder: Path, device: str) -> None:
    """The UNet and the autoencoder at their true size; the text's width stays small."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    text_width = json.loads((folder / "text_encoder/config.json").read_text())["hidden_size"]
    with torch.device(device):
        UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=text_width,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        ).half().save_pretrained(folder / "unet")
        AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        ).half().save_pretrained(folder / "vae")


def tests(device: str, reduced: bool) -> Figures:
    """The tests that run on both devices, and the names of those that fail."""
    import tempfile
    import xml.etree.ElementTree as ElementTree

    where = ["tests/kernels/test_hashgrid.py", "-k", "bad"] if reduced else ["tests/kernels"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        workers = ["-n", str(min(8, os.cpu_count() or 1))] if not reduced else []
        command = [sys.executable, "-m", "pytest", "-q", *where, *workers, f"--junitxml={report}"]
        subprocess.run(command, cwd=ROOT)
        cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = sum(c.find("skipped") is not None for c in cases)
    return {
        "passed": len(cases) - len(bad) - skipped,
        "skipped": skipped,
        "failed": [f"{c.get('classname')}::{c.get('name')}" for c in bad],
    }


Part = Callable[[str, bool], Figures]
#: Each with its limit in seconds.
PARTS: dict[str, tuple[Part, float]] = {
    "kernels": (kernels, 90),
    "raster": (raster, 45),
    "scenes": (scenes, 150),
    "waits": (waits, 90),
    "step-fp32": (lambda device, reduced: step(device, reduced, "fp32"), 60),
    "step-fp16": (lambda device, reduced: step(device, reduced, "fp16"), 60),
    "step-bf16": (lambda device, reduced: step(device, reduced, "bf16"), 60),
    "true-size": (true_size, 120),
    "tests": (tests, 180),
}


def run_part(name: str, device: str, reduced: bool, limit: float) -> Figures:
    """The figures of one part, or ``{"error": why}``; with the seconds that it took."""
    began = time.perf_counter()
    command = [sys.executable, str(Path(__file__).resolve()), "--inside", name]
    command += ["--device", device, *(["--reduced"] if reduced else [])]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        start_new_session=True,  # so that its children end with it
    )
    try:
        told, _ = process.communicate(timeout=limit)
        lines = told.strip().splitlines() or [""]
        if process.returncode == 0 and lines[-1].startswith(MARK):
            found = json.loads(lines[-1].removeprefix(MARK))
        else:
            found = {"error": f"exit status {process.returncode}", "end": lines[-12:]}
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        found = {"error": f"ran past {limit:g} s"}
    return {"seconds": round(time.perf_counter() - began, 1), **found}


MARK = "figures: "


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--again", action="store_true", help="parts that are there, too")
    parser.add_argument("--reduced", action="store_true", help="everything small")
    parser.add_argument("--limit", type=float, help="seconds of each part, instead of its own")
    parser.add_argument("--inside", choices=tuple(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA device here")
    if args.inside:
        found = PARTS[args.inside][0](args.device, args.reduced)
        print(f"\n{MARK}{json.dumps(found)}", flush=True)
        return
    name = hardware(args.device)
    out = args.out or RESULTS / f"gpu-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    report = json.loads(out.read_text()) if out.is_file() else {"parts": {}}
    report |= describe(torch.device(args.device))
    for part in args.parts:
        done = report["parts"].get(part, {"error": "missing"})
        if "error" not in done and not args.again:
            print(f"{part}: there already")
            continue
        print(f"{part} ...", flush=True)
        found = run_part(part, args.device, args.reduced, args.limit or PARTS[part][1])
        report["parts"][part] = found
        with written_whole(out) as partial:
            partial.write_text(json.dumps(report, indent=1) + "\n")
        print(f"{part}: {json.dumps(found)[:600]}", flush=True)
    print(out)


if __name__ == "__main__":
    main()
