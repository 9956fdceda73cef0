"""Models of another kind are refused by name, from their configurations."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from model_kinds import TINY, UNETS, change

from threestudio_asd.errors import UserError
from threestudio_asd.pretrained import hub, kinds, resolve
from threestudio_asd.pretrained.resolve import require_model, resolve_model, whereabouts
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny.random_sd import write_random_sd

# What the message says -> part, changes of its configuration.
CONFIGS = {
    "a model without a size": ("unet", {"sample_size": None}),
    "a text-to-video or other": ("unet", {"_class_name": "UNetSpatioTemporalConditionModel"}),
    "a model with a consistency": ("scheduler", {"_class_name": "LCMScheduler"}),
    "a TCDScheduler": ("scheduler", {"_class_name": "TCDScheduler"}),
    "a flow-matching model": ("scheduler", {"prediction_type": "flow_prediction"}),
    "use_flow_sigmas is True": ("scheduler", {"use_flow_sigmas": True}),
    "prediction_type is noise": ("scheduler", {"prediction_type": "noise"}),
    "an epsilon model with zero terminal SNR": ("scheduler", {"rescale_betas_zero_snr": True}),
    "a model with another autoencoder": ("vae", {"_class_name": "AutoencoderTiny"}),
    "a model with normalised latents": ("vae", {"latents_mean": [0.0] * 4}),
    "latents have 16": ("vae", {"latent_channels": 16}),
    "another text encoder than CLIP's": ("text_encoder", {"model_type": "t5"}),
}


@pytest.mark.parametrize("kind", UNETS)
def test_networks_that_need_more_are_refused_by_name(sd_copy, kind):
    UNet2DConditionModel(**{**TINY, **UNETS[kind]}).save_pretrained(sd_copy / "unet")
    for asked in (
        require_model,
        resolve_model,
        whereabouts,
        StableDiffusionTeacher.from_pretrained,
    ):
        with pytest.raises(UserError, match="cannot be a teacher") as error:
            asked(sd_copy)
        assert kind in str(error.value) and str(sd_copy) in str(error.value)


@pytest.mark.parametrize("kind", CONFIGS)
def test_other_schedules_and_parts_are_refused_by_name(sd_copy, kind):
    part, changes = CONFIGS[kind]
    change(sd_copy, part, **changes)
    with pytest.raises(UserError, match="cannot be a teacher") as error:
        StableDiffusionTeacher.from_pretrained(sd_copy)
    assert kind in str(error.value)


def test_a_schedule_without_betas_is_refused(sd_copy):
    (sd_copy / "scheduler/scheduler_config.json").write_text('{"_class_name": "EDMEulerScheduler"}')
    with pytest.raises(UserError, match="EDMEulerScheduler states no betas"):
        resolve_model(sd_copy)


def test_every_kind_has_an_input_here(random_sd):
    configs = kinds.read_configs(random_sd, resolve.STABLE_DIFFUSION)
    no_betas = {"scheduler": {"_class_name": "EDMEulerScheduler"}}
    inputs = [{"unet": {**configs["unet"], **settings}} for settings in UNETS.values()]
    inputs += [{part: {**configs[part], **changes}} for part, changes in CONFIGS.values()]
    reached = set()
    for changed in (no_betas, *inputs):
        found = (k.name for k in kinds.KINDS if k.sign({**configs, **changed}))
        reached.add(next(found))
    assert reached == {kind.name for kind in kinds.KINDS}


def test_a_critic_of_another_kind_is_refused(sd_copy):
    change(sd_copy, "unet", time_cond_proj_dim=256)
    with pytest.raises(UserError, match="guidance-distilled"):
        FrozenUNet.load(sd_copy)


def test_a_configuration_that_is_no_json_is_told(random_sd, sd_copy):
    (sd_copy / "unet/config.json").write_text("{")
    with pytest.raises(UserError, match=r"unet/config\.json cannot be read"):
        resolve_model(sd_copy)
    for part, message in (("unet", "unet cannot be loaded"), ("scheduler", "cannot be read")):
        (sd_copy / kinds.config_file(part)).write_text("")
        with pytest.raises(UserError, match=message):
            FrozenUNet.load(sd_copy)
        shutil.copy(random_sd / kinds.config_file(part), sd_copy / part)


@pytest.mark.parametrize(
    ("parts", "index", "message"),
    [
        (["transformer", "text_encoder"], "FluxPipeline", "diffusion transformer (FluxPipeline)"),
        (["prior", "decoder"], "StableCascadeCombinedPipeline", "a prior and a decoder"),
        (["unet", "image_encoder"], "StableDiffusionImageVariationPipeline", "variations"),
    ],
)
def test_pipelines_without_the_parts_are_named(tmp_path, parts, index, message):
    for part in parts:
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": index}))
    with pytest.raises(UserError, match="lacks unet") as error:
        resolve_model(tmp_path)
    assert message in str(error.value)


def test_the_hub_is_asked_for_configurations_before_weights(monkeypatch, sd_copy):
    change(sd_copy, "unet", in_channels=9)
    monkeypatch.setattr(hub, "cached", lambda *args: None)
    names = [f.relative_to(sd_copy).as_posix() for f in sd_copy.rglob("*") if f.is_file()]
    monkeypatch.setattr(hub, "_ask_hub", lambda hub_id: names)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda hub_id, name, **options: str(sd_copy / name)
    )
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *args, **kwargs: pytest.fail("downloaded")
    )
    for asked in (require_model, resolve_model, whereabouts):
        with pytest.raises(
            UserError, match=r"some/inpainting cannot be a teacher: it is an inpaint"
        ):
            asked("some/inpainting")


# One file given as the model


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt", ".pth", ".bin"])
def test_one_file_as_the_model_names_the_option_that_takes_it(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_ask_hub", lambda hub_id: pytest.fail("asked the hub"))
    name = f"model{suffix}"
    with pytest.raises(UserError, match="no such file"):
        resolve_model(name)
    Path(name).write_bytes(b"")
    for given in (name, tmp_path / name):
        for asked in (resolve_model, require_model):
            with pytest.raises(UserError, match="is one file, not a model folder") as error:
                asked(given)
            assert f"system.guidance.ckpt_path={given}" in str(error.value)
    folder = tmp_path / "downloads"
    folder.mkdir()
    shutil.move(name, folder)
    with pytest.raises(UserError, match="lacks unet") as error:
        resolve_model(folder)
    assert f"system.guidance.ckpt_path={folder / name}" in str(error.value)


def test_a_unet_alone_as_the_model_names_the_option_that_takes_it(random_sd):
    with pytest.raises(UserError) as error:
        resolve_model(random_sd / "unet")
    assert f"system.guidance.ckpt_path={random_sd / 'unet'}" in str(error.value)


def test_weights_of_other_frameworks_are_named(tmp_path):
    for part in resolve.STABLE_DIFFUSION:
        (tmp_path / part).mkdir()
        (tmp_path / part / "model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="Its weights are those of ONNX"):
        resolve_model(tmp_path)


# Zero terminal SNR


def test_a_v_model_with_zero_terminal_snr_is_used(tmp_path):
    folder = write_random_sd(tmp_path, "v_prediction")
    change(folder, "scheduler", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    teacher = StableDiffusionTeacher.from_pretrained(folder)
    assert teacher.schedule.alphas_cumprod[-1] == 0 and teacher.schedule.last_step == 998
    x_t = torch.randn(2, 4, 8, 8)
    epsilon = teacher.epsilon(x_t, torch.tensor([998, 999]), teacher.embed_text(["a cube"] * 2))
    assert epsilon.isfinite().all()
    torch.testing.assert_close(epsilon[1], x_t[1])  # pure noise
