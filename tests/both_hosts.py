"""The same training on both hosts, from the same weights and with the same random numbers.

The real threestudio is a checkout; its Python dependencies must be there too: pip install
threestudio-asd[upstream].
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from threestudio_asd.tiny.random_sd import random_unet, write_random_sd

ROOT = Path(__file__).parent.parent
Losses = dict[str, list[float]]


def write_model(folder: Path) -> Path:
    """A random model of Stable Diffusion's size of pictures, 512, to which threestudio resizes for
    whatever model; its attention is at half of its latents' resolution alone, to save time."""
    write_random_sd(folder, sample_size=64)
    attended = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    blocks = dict(zip(("down_block_types", "up_block_types"), attended, strict=True))
    random_unet(64, **blocks).save_pretrained(folder / "unet")
    # As Stable Diffusion's have it, where an inversion begins.
    scheduler = folder / "scheduler/scheduler_config.json"
    config = json.loads(scheduler.read_text()) | {"set_alpha_to_one": False}
    scheduler.write_text(json.dumps(config))
    return folder


def exact(model: Path) -> tuple[str, ...]:
    """Overrides: float32 on ``model``, and sizes for a few steps of a NeRF on a CPU."""
    return (
        *(
            f"system.{part}.pretrained_model_name_or_path={model}"
            for part in ("prompt_processor", "guidance")
        ),
        *("system.guidance.half_precision_weights=false", "trainer.precision=32"),
        *("system.renderer.num_samples_per_ray=64", "data.n_val_views=1", "data.batch_size=1"),
        "data.resolution_milestones=[]",
        "system.geometry.pos_encoding_config.log2_hashmap_size=12",
    )


def run(arguments: list[str], folder: Path) -> str:
    """Output of a Python process that sees no CUDA; fails if it does."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def losses(folder: Path, launcher: list[str], config: Path, *overrides: str) -> Losses:
    """Column -> values per step of a training in ``folder`` with ``launcher``."""
    sizes = ["width=32", "height=32", "eval_width=16", "eval_height=16", "n_test_views=1"]
    steps = ["system.prompt_processor.prompt=a red mug", f"exp_root_dir={folder}"]
    steps += ["use_timestamp=false", "trainer.val_check_interval=100"]
    sizes = [f"data.{size}" for size in sizes]
    run([*launcher, "--config", str(config), "--train", *steps, *sizes, *overrides], folder)
    (table,) = folder.glob("*/*/csv_logs/version_0/metrics.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("train/loss")]
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}


def losses_of_both(
    folder: Path,
    checkout: str,
    config: Path,
    *overrides: str,
    steps: int = 20,
    extension: Path | None = None,
) -> tuple[Losses, Losses]:
    """Of the bundled host and of a real threestudio, which has ``extension`` in its custom/."""
    for name in ("start", "bundled", "upstream"):
        (folder / name).mkdir()
    launch = [str(ROOT / "launch.py")]
    losses(folder / "start", launch, config, *overrides, "trainer.max_steps=1")
    (weights,) = folder.glob("start/*/*/ckpts/last.ckpt")
    same = [*overrides, f"trainer.max_steps={steps}", f"system.weights={weights}"]
    bundled = losses(folder / "bundled", launch, config, *same)
    pinned = [str(ROOT / "tests/contract/pinned_run.py"), checkout]
    pinned += [] if extension is None else ["--extension", str(extension)]
    return bundled, losses(folder / "upstream", pinned, config, *same)


def require_equal(bundled: Losses, upstream: Losses, steps: int = 20) -> None:
    """To 1e-4, in every step; by size, as the loss of a critic crosses zero. Terms of weight 0 are
    computed by threestudio alone."""
    assert bundled.keys() <= upstream.keys()
    for name, values in bundled.items():
        assert len(values) == steps
        size = max(map(abs, values))
        assert upstream[name] == pytest.approx(values, rel=1e-4, abs=1e-4 * size), name
