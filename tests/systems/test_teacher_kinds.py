"""Which models a training takes and which it refuses before it writes anything."""

import json
import shutil

import pytest
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from threestudio_asd.tiny.random_sd import write_random_sd

SMALL = ("system.n_particles=2", "data.batch_size=2", "system.shape=null")
GUIDANCE = "system.guidance"


def of_model(folder):
    parts = (GUIDANCE, "system.prompt_processor")
    return [f"{part}.pretrained_model_name_or_path={folder}" for part in parts]


def changed(folder, file, **changes):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("config", ["asd-2d.yaml", "sds-nerf.yaml", "vsd-nerf.yaml"])
def test_a_model_of_another_kind_is_refused_before_a_folder_exists(
    launch, model, tmp_path, capsys, config
):
    copy = shutil.copytree(model, tmp_path / "copy")
    changed(copy, "unet/config.json", in_channels=9)
    assert launch(*of_model(copy), config=config) == 2
    error = capsys.readouterr().err.partition("error: ")[2]
    assert "an inpainting model" in error and "\n" not in error.strip()
    assert not (tmp_path / "outputs").exists()


def test_the_critics_model_is_asked_too(launch, model, tmp_path, capsys):
    copy = shutil.copytree(model, tmp_path / "copy")
    changed(copy, "unet/config.json", time_cond_proj_dim=256)
    assert launch(f"{GUIDANCE}.pretrained_model_name_or_path_lora={copy}") == 2
    assert "guidance-distilled model" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_checkpoints_are_asked_too(launch, model, tmp_path, capsys):
    unet = UNet2DConditionModel.from_pretrained(
        model / "unet", in_channels=8, low_cpu_mem_usage=False, ignore_mismatched_sizes=True
    )
    save_file(unet.state_dict(), tmp_path / "pairs.safetensors")
    assert launch(f"{GUIDANCE}.ckpt_path={tmp_path / 'pairs.safetensors'}") == 2
    assert "an InstructPix2Pix" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_one_file_as_the_model_is_told_before_a_folder_exists(launch, tmp_path, capsys):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert launch(f"{GUIDANCE}.pretrained_model_name_or_path={file}") == 2
    assert f"system.guidance.ckpt_path={file}" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("weighting", ["sds", "asd"])
def test_a_v_model_with_zero_terminal_snr_trains(launch, logged, tmp_path, weighting):
    folder = write_random_sd(tmp_path / "v", "v_prediction")
    changed(
        folder,
        "scheduler/scheduler_config.json",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    last = ("min_step_percent=1.0", "max_step_percent=1.0", f"weighting_strategy={weighting}")
    draws = ("share_noise=false", "lora_n_timestamp_samples=4")
    settings = [f"{GUIDANCE}.{setting}" for setting in (*last, *draws)]
    assert launch(*SMALL, *of_model(folder), *settings) == 0
    log = logged()
    assert log["train/max_step"] == [998, 998]
    for name in ("train/loss_asd", "train/loss_lora", "train/grad_norm"):
        assert all(0 < value < 1e9 for value in log[name]), (name, log[name])
