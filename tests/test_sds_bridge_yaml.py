"""threestudio-sds-bridge's configs/sds-bridge.yaml, by its values: it trains as it is.

With SDS_BRIDGE_PATH (a checkout of github.com/davidmcall/SDS-Bridge) the values are read again;
with THREESTUDIO_PATH, too, both hosts are compared.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from both_hosts import exact, losses_of_both, require_equal, write_model
from published import require_values_accepted, resolved, trained

from threestudio_asd.cli.main import main

VALUES = json.loads((Path(__file__).parent / "references/sds_bridge_yaml.json").read_text())
THREESTUDIO = os.environ.get("THREESTUDIO_PATH", "")
EXTENSION = Path(os.environ.get("SDS_BRIDGE_PATH", "/nowhere")) / "threestudio-sds-bridge"
real = pytest.mark.skipif(not EXTENSION.is_dir(), reason="SDS_BRIDGE_PATH is not set")
LOSSES = {"sds", "sparsity"}


def test_every_key_and_value_of_it_is_accepted():
    require_values_accepted(VALUES)
    assert VALUES["system_type"] == "sds-bridge-system"
    assert VALUES["system"]["guidance_type"] == "stable-diffusion-sds-bridge-guidance"


@pytest.mark.slow
def test_it_trains_both_stages_and_goes_on_in_the_second(random_sd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = ("trainer.max_steps=20", "trainer.val_check_interval=20", "data.batch_size=1")
    log, trial = trained(VALUES, random_sd, *steps, "system.guidance.stage_two_start_step=10")
    assert {n.removeprefix("train/loss_") for n in log if n.startswith("train/loss_")} == LOSSES
    losses = log["train/loss_sds"]
    assert len(losses) == 20 and all(0 < x < 1e9 for x in losses)
    # The first stage has a scale of 100.
    assert sum(losses[:10]) > 10 * sum(losses[10:])
    assert {path.name for path in (trial / "save").glob("it20-*")} >= {
        "it20-0.png",
        "it20-test.mp4",
    }
    state = torch.load(trial / "ckpts/last.ckpt", weights_only=True)["state_dict"]
    assert state and not [name for name in state if name.startswith("guidance")]
    command = ["launch", "--config", str(trial / "configs/parsed.yaml"), "--train"]
    resume = f"resume={trial / 'ckpts/last.ckpt'}"
    assert main([*command, resume, "trainer.max_steps=22"]) == 0
    logs = [file.read_text() for file in sorted(trial.glob("csv_logs/*/metrics.csv"))]
    columns = logs[-1].splitlines()[0].split(",")
    resumed = [line.split(",")[columns.index("train/loss_sds")] for line in logs[-1].splitlines()]
    resumed = [float(value) for value in resumed[1:] if value]
    assert resumed[-2:] and max(resumed[-2:]) < min(losses[:10])


@real
def test_the_values_are_the_files():
    assert resolved(EXTENSION / "configs/sds-bridge.yaml") == VALUES


@real
@pytest.mark.slow
@pytest.mark.skipif(not THREESTUDIO, reason="THREESTUDIO_PATH is not set")
def test_first_losses_are_those_of_the_extension(tmp_path):
    """In both stages."""
    config = EXTENSION / "configs/sds-bridge.yaml"
    overrides = (*exact(write_model(tmp_path / "model")), "system.guidance.stage_two_start_step=2")
    # The model's vocabulary spells letter by letter, and the extension cuts no prompt.
    overrides += ("system.prompt_processor.src_modifier=blurry, noisy",)
    both = losses_of_both(
        tmp_path, THREESTUDIO, config, *overrides, steps=4, extension=EXTENSION.resolve()
    )
    require_equal(*both, steps=4)
