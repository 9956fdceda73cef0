"""The 3D system, from the command line to pictures."""

import pytest
import torch

from threestudio_asd import host
from threestudio_asd.systems.asd import ASDSystem

SMALL = (
    *("data.width=16", "data.height=16", "data.eval_width=16", "data.eval_height=16"),
    *("data.n_val_views=1", "data.n_test_views=2", "system.renderer.num_samples_per_ray=16"),
)


def run(launch, *overrides, **kwargs):
    return launch(*SMALL, *overrides, config="tiny/asd-nerf.yaml", **kwargs)


def test_both_names_are_registered():
    assert host.find("asd-system") is host.find("nerf-system-asd") is ASDSystem


def test_a_run_trains_scene_and_critic_and_saves_pictures(launch, logged, trial):
    options = ("trainer.val_check_interval=1", "system.loss.lambda_sparsity=1")
    assert run(launch, "system.guidance_eval=true", *options) == 0
    weights = torch.load(trial / "ckpts/last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in weights} >= {"geometry", "guidance"}
    moved = [v for n, v in weights.items() if n.endswith("up.weight")]
    assert moved and all(v.abs().max() > 0 for v in moved)
    saved = {path.name for path in (trial / "save").iterdir()}
    assert {"it0-train.png", "it1-0.png", "it2-0.png", "it2-test", "it2-test.mp4"} <= saved
    log = logged()
    assert {"train/loss_asd", "train/loss_lora", "train/loss_sparsity"} <= set(log)
    assert "train/loss_orient" not in log  # of weight 0


def test_guidance_update_lowers_the_largest_timestep(launch, logged):
    options = ("system.guidance_update=true", "system.warmup_iter=2")
    assert run(launch, *options, "system.guidance.max_step_percent=0.5") == 0
    assert logged()["train/max_step"] == [980.0, 740.0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("system.stage=paint", "system.stage is 'paint'"),
        ("system.visualize_samples=true", "visualize_samples is not implemented"),
        ("system.guidance_update=true", "cannot follow a schedule"),
        ("system.loss.lambda_orient=1", "needs normals; set system.geometry.normal_type"),
    ],
)
def test_mistakes_are_told_in_one_line(launch, capsys, override, message):
    assert run(launch, override) == 2
    error = capsys.readouterr().err.partition("error: ")[2]
    assert message in error and "\n" not in error.strip()
