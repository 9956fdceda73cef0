"""threestudio's configs/sdi.yaml, by its values: it trains as it is.

With THREESTUDIO_PATH (a checkout of it) the values are read again, and both hosts compared.
"""

import json
import os
from pathlib import Path

import imageio.v2 as imageio
import pytest
import torch
from both_hosts import exact, losses_of_both, require_equal, write_model
from published import require_values_accepted, resolved, trained

from threestudio_asd.cli.main import main

VALUES = json.loads((Path(__file__).parent / "references/sdi_yaml.json").read_text())
CHECKOUT = os.environ.get("THREESTUDIO_PATH", "")
real = pytest.mark.skipif(not CHECKOUT, reason="THREESTUDIO_PATH is not set")
LOSSES = {"sdi", "orient", "sparsity", "opaque", "z_variance", "convexity"}


def test_every_key_and_value_of_it_is_accepted():
    require_values_accepted(VALUES)
    assert VALUES["system_type"] == "sdi-system"
    assert VALUES["system"]["guidance_type"] == "stable-diffusion-sdi-guidance"


@pytest.mark.slow
def test_it_trains(random_sd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = ("trainer.max_steps=20", "trainer.val_check_interval=20")
    short = "system.guidance.inversion_n_steps=3"
    log, trial = trained(VALUES, random_sd, *steps, short)
    assert {n.removeprefix("train/loss_") for n in log if n.startswith("train/loss_")} == LOSSES
    for name in LOSSES:
        assert len(log[f"train/loss_{name}"]) == 20
    assert all(0 < x < 1e3 for x in log["train/loss_sdi"])
    # From .98 to .25 of 1000 in 10000 steps.
    expected = [int(1000 * (0.73 * (1 - i / 10000) + 0.25)) for i in range(20)]
    assert log["train/min_step"] == log["train/max_step"] == expected
    # Colours, normals, opacity; noisy, noise, target and two differences.
    assert imageio.imread(trial / "save/it20-0.png").shape == (16, 8 * 16, 3)
    assert (trial / "save/it20-test.mp4").is_file()
    # The scene alone is learnt; no teacher is needed to look at it.
    state = torch.load(trial / "ckpts/last.ckpt", weights_only=True)["state_dict"]
    assert state and not [name for name in state if name.startswith("guidance")]
    command = ["launch", "--config", str(trial / "configs/parsed.yaml"), "--validate"]
    nowhere = "system.guidance.pretrained_model_name_or_path=/no/such/folder"
    assert main([*command, f"resume={trial / 'ckpts/last.ckpt'}", nowhere]) == 0


@real
def test_the_values_are_the_files():
    assert resolved(Path(CHECKOUT) / "configs/sdi.yaml") == VALUES


@real
@pytest.mark.slow
def test_first_losses_are_those_of_threestudio(tmp_path):
    config = Path(CHECKOUT) / "configs/sdi.yaml"
    overrides = exact(write_model(tmp_path / "model"))
    both = losses_of_both(tmp_path, CHECKOUT, config, *overrides, steps=3)
    assert {f"train/loss_{name}" for name in LOSSES} <= both[0].keys()
    require_equal(*both, steps=3)
