"""Against a real threestudio: set THREESTUDIO_PATH to a checkout of it.

Its Python dependencies must be there too: pip install threestudio-asd[upstream].
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from contract.compare import committed, differences, read
from omegaconf import OmegaConf

ROOT = Path(__file__).parent.parent
CHECKOUT = os.environ.get("THREESTUDIO_PATH", "")

pytestmark = pytest.mark.skipif(not CHECKOUT, reason="THREESTUDIO_PATH is not set")


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


def test_facts_are_those_of_the_checkout(tmp_path):
    run([str(ROOT / "tests/contract/extract.py"), CHECKOUT, "--out", str(tmp_path)], tmp_path)
    assert differences(committed(), read(tmp_path)) == {}


def test_checkout_trains_five_steps(tmp_path):
    config = ROOT / "configs" / "tiny" / "asd-nerf.yaml"
    sizes = ["width=32", "height=32", "eval_width=16", "eval_height=16", "n_test_views=2"]
    run(
        [
            *("-m", "threestudio_asd.cli.main", "upstream", CHECKOUT),
            *("--config", str(config), "--train"),
            "system.prompt_processor.prompt=a red mug",
            f"exp_root_dir={tmp_path}",
            "use_timestamp=false",
            "trainer.max_steps=5",
            "trainer.val_check_interval=5",
            "checkpoint.every_n_train_steps=5",
            *(f"data.{size}" for size in sizes),
        ],
        tmp_path,
    )
    trial = tmp_path / "asd-nerf-tiny" / "a_red_mug"
    assert (trial / "ckpts" / "last.ckpt").is_file()
    assert (trial / "save" / "it5-test.mp4").is_file()
    assert OmegaConf.load(trial / "configs" / "parsed.yaml").trainer.max_steps == 5
    columns, *rows = (trial / "csv_logs/version_0/metrics.csv").read_text().splitlines()
    assert "train/loss_asd" in columns
    assert "nan" not in "".join(rows)
