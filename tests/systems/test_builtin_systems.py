"""threestudio's systems on the bundled host, from the command line."""

import os
from pathlib import Path

import pytest
import torch

from threestudio_asd import host
from threestudio_asd.cli.main import main
from threestudio_asd.systems.builtin import DreamFusion, ProlificDreamer

SMALL = (
    *("data.width=16", "data.height=16", "data.eval_width=16", "data.eval_height=16"),
    *("data.n_val_views=1", "data.n_test_views=2", "system.renderer.num_samples_per_ray=16"),
)
DREAMFUSION, PROLIFIC = "system_type=dreamfusion-system", "system_type=prolificdreamer-system"


CHECKOUT = os.environ.get("THREESTUDIO_PATH", "")


@pytest.fixture
def vsd(launch, model):
    def run(*overrides, **kwargs):
        critic = f"system.guidance.pretrained_model_name_or_path_lora={model}"
        return launch(*SMALL, critic, *overrides, config="tiny/vsd-nerf.yaml", **kwargs)

    return run


def test_they_are_registered():
    assert host.find("dreamfusion-system") is DreamFusion
    assert host.find("prolificdreamer-system") is ProlificDreamer


def test_dreamfusion_trains_and_exports_without_the_teacher(launch, logged, trial):
    where = (*SMALL, DREAMFUSION, "trainer.val_check_interval=2", "system.loss.lambda_sparsity=1")
    assert launch(*where, config="tiny/sds-nerf.yaml", drop=("system.stage",)) == 0
    assert {"train/loss_sds", "train/loss_sparsity", "train/max_step"} <= set(logged())
    assert {"it2-0.png", "it2-test.mp4"} <= {path.name for path in (trial / "save").iterdir()}
    state = torch.load(trial / "ckpts/last.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in state if name.startswith("guidance")]
    command = ["launch", "--config", str(trial / "configs/parsed.yaml"), "--export"]
    resume = f"resume={trial / 'ckpts/last.ckpt'}"
    nowhere = "system.guidance.pretrained_model_name_or_path=/no/such/folder"
    assert main([*command, resume, nowhere, "system.geometry.isosurface_resolution=16"]) == 0
    assert list((trial / "save/it2-export").iterdir())


def test_prolificdreamer_trains_scene_and_critic(vsd, logged, trial):
    assert vsd(PROLIFIC) == 0
    assert {"train/loss_vsd", "train/loss_lora"} <= set(logged())
    state = torch.load(trial / "ckpts/last.ckpt", weights_only=True)["state_dict"]
    moved = [value for name, value in state.items() if name.endswith("up.weight")]
    assert moved and all(value.abs().max() > 0 for value in moved)


def test_what_the_sdi_system_needs_is_told(launch, capsys):
    drop, sdi = ("system.stage",), "system_type=sdi-system"
    options = (*SMALL, sdi, "system.loss.lambda_convex=1")
    for override, message in (
        ("system.convexity_res=1", "system.convexity_res must be at least 2"),
        ("system.loss.lambda_sds=1", "lambda_convex needs a picture of normals"),
    ):
        assert launch(*options, override, config="tiny/sds-nerf.yaml", drop=drop) == 2
        assert message in capsys.readouterr().err


def test_the_sdi_system_takes_another_guidance(launch, logged, trial):
    options = (*SMALL, "system_type=sdi-system", "trainer.val_check_interval=2")
    assert launch(*options, config="tiny/sds-nerf.yaml", drop=("system.stage",)) == 0
    assert "train/loss_sds" in logged() and "train/loss_convexity" not in logged()
    assert (trial / "save/it2-0.png").is_file()


@pytest.mark.slow
def test_the_asd_system_takes_threestudios_sds(launch, logged, trial):
    options = ("system.guidance_update=true", "system.warmup_iter=2", "system.guidance_eval=true")
    falls = "system.guidance.max_step_percent=0.5"
    assert launch(*SMALL, *options, falls, config="tiny/sds-nerf.yaml") == 0
    assert logged()["train/max_step"] == [980.0, 740.0]
    assert (trial / "save/it0-train.png").is_file()


def test_images_by_threestudios_sds(launch, logged):
    guidance = ("system.guidance_type=stable-diffusion-guidance", "system.loss.lambda_sds=1")
    keys = ("gamma", "gamma_target", "share_noise", "camera_condition_type")
    drop = [f"system.guidance.{key}" for key in keys] + ["system.optimizer.params.guidance"]
    assert launch("system.n_particles=2", "data.batch_size=2", *guidance, drop=drop) == 0
    assert "train/loss_sds" in logged()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((PROLIFIC, "system.stage=geometry"), "needs a renderer that draws meshes"),
        ((PROLIFIC, "system.visualize_samples=true"), "visualize_samples is not implemented"),
        ((PROLIFIC, "system.guidance_eval=true"), "unknown config key system.guidance_eval"),
        ((DREAMFUSION,), "unknown config key system.stage"),
    ],
)
def test_mistakes_are_told_in_one_line(vsd, capsys, overrides, message):
    assert vsd(*overrides) == 2
    error = capsys.readouterr().err.partition("error: ")[2]
    assert message in error and "\n" not in error.strip()


def test_dreamfusion_refuses_a_critic_that_it_would_not_train(vsd, capsys):
    drop = ("system.stage", "system.optimizer.params.guidance")
    assert vsd(DREAMFUSION, drop=drop) == 2
    error = capsys.readouterr().err.partition("error: ")[2]
    assert "set system_type to prolificdreamer-system" in error and "\n" not in error.strip()


@pytest.mark.skipif(not CHECKOUT, reason="THREESTUDIO_PATH is not set")
@pytest.mark.parametrize("name", ["dreamfusion-sd", "prolificdreamer"])
def test_threestudios_own_recipes_train(name, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Path(CHECKOUT) / f"configs/{name}.yaml"
    overrides = [
        f"system.{part}.pretrained_model_name_or_path={model}"
        for part in ("prompt_processor", "guidance")
    ]
    overrides += ["system.prompt_processor.prompt=a red mug", "data.batch_size=1", "tag=run"]
    overrides += ["trainer.max_steps=2", "trainer.val_check_interval=2", "use_timestamp=false"]
    if name == "prolificdreamer":
        critic = f"system.guidance.pretrained_model_name_or_path_lora={model}"
        overrides += [critic, "data.resolution_milestones=[]"]
    assert main(["launch", "--config", str(config), "--train", *SMALL, *overrides]) == 0
    assert (tmp_path / "outputs" / name / "run/ckpts/last.ckpt").is_file()
