"""A NeRF run that is killed between checkpoints goes on as if nothing had happened."""

import csv
import signal
import time

import pytest
from processes import ROOT, Python, run

from threestudio_asd.tiny.random_sd import write_random_sd

STEPS = 24


def command(model, tag, *extra):
    return [
        *(str(ROOT / "launch.py"), "--config", "tiny/asd-nerf", "--train"),
        f"system.prompt_processor.pretrained_model_name_or_path={model}",
        f"system.guidance.pretrained_model_name_or_path={model}",
        "system.prompt_processor.prompt=a red mug",
        *("data.width=12", "data.height=12", "data.eval_height=8", "data.eval_width=8"),
        *("data.n_val_views=1", "data.n_test_views=1", "system.renderer.num_samples_per_ray=24"),
        # The edges of t and a loss weight change after the checkpoint, and the camera drops out.
        "system.guidance.max_step_percent=[16,0.98,0.5,17]",
        "system.loss.lambda_opaque=[16,0.0,1.0,17]",
        "system.geometry.pos_encoding_config.log2_hashmap_size=11",
        *(f"trainer.max_steps={STEPS}", "trainer.val_check_interval=1000"),
        *("checkpoint.every_n_train_steps=12", "use_timestamp=false", f"tag={tag}", *extra),
    ]


def losses(trial):
    """Step -> logged losses, over all CSV files of a trial."""
    found = {}
    for file in sorted(trial.glob("csv_logs/*/metrics.csv")):
        for row in csv.DictReader(file.open()):
            if row.get("train/loss_asd"):
                found[int(row["step"])] = (row["train/loss_asd"], row["train/loss_lora"])
    return found


@pytest.mark.long
def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    model = write_random_sd(tmp_path / "sd")
    done = run(*command(model, "whole"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole = losses(tmp_path / "outputs/asd-nerf-tiny/whole")
    assert sorted(whole) == list(range(STEPS))

    trial = tmp_path / "outputs/asd-nerf-tiny/killed"
    with Python(*command(model, "killed"), cwd=tmp_path) as process:
        deadline = time.time() + 180
        while not list(trial.glob("ckpts/*step=12.ckpt")) and time.time() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    (checkpoint,) = trial.glob("ckpts/*step=12.ckpt")
    done = run(*command(model, "killed", f"resume={checkpoint}"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    resumed = losses(trial)
    assert set(range(12, STEPS)) <= set(resumed)
    for step in range(12, STEPS):
        assert resumed[step] == whole[step], step
