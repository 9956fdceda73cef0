"""Models of another kind are refused by name, from their configurations; variants are read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from threestudio_asd.errors import UserError
from threestudio_asd.pretrained import hub, kinds, resolve
from threestudio_asd.pretrained.files import component_files, variant_of
from threestudio_asd.pretrained.resolve import require_model, resolve_model, whereabouts
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny.random_sd import write_random_sd

TINY = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
}
# What the message says -> settings of a UNet that diffusers builds.
UNETS = {
    "an SDXL model": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
    },
    "a Kandinsky 2": {"addition_embed_type": "image", "encoder_hid_dim": 24},
    "a model with an image encoder": {
        "encoder_hid_dim_type": "image_proj",
        "encoder_hid_dim": 24,
    },
    "a DeepFloyd IF model": {"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 24},
    "a model with additional embeddings": {
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
    },
    "a guidance-distilled model": {"time_cond_proj_dim": 32},
    "an inpainting model": {"in_channels": 9},
    "a depth-to-image model": {"in_channels": 5},
    "an upscaler": {"in_channels": 7, "num_class_embeds": 10},
    "an InstructPix2Pix": {"in_channels": 8},
    "a model with class labels": {"num_class_embeds": 10},
    "a model with class embeddings": {
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 12,
    },
    "a model of other channels": {"in_channels": 3, "out_channels": 3},
    "out_channels 8": {"out_channels": 8},
    "a mixture of two models": {"cross_attention_dim": 32},
}
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


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_random_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def copy(model, tmp_path):
    return Path(shutil.copytree(model, tmp_path / "model"))


def change(folder, part, **changes):
    file = folder / kinds.config_file(part)
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("kind", UNETS)
def test_networks_that_need_more_are_refused_by_name(copy, kind):
    UNet2DConditionModel(**{**TINY, **UNETS[kind]}).save_pretrained(copy / "unet")
    for asked in (
        require_model,
        resolve_model,
        whereabouts,
        StableDiffusionTeacher.from_pretrained,
    ):
        with pytest.raises(UserError, match="cannot be a teacher") as error:
            asked(copy)
        assert kind in str(error.value) and str(copy) in str(error.value)


@pytest.mark.parametrize("kind", CONFIGS)
def test_other_schedules_and_parts_are_refused_by_name(copy, kind):
    part, changes = CONFIGS[kind]
    change(copy, part, **changes)
    with pytest.raises(UserError, match="cannot be a teacher") as error:
        StableDiffusionTeacher.from_pretrained(copy)
    assert kind in str(error.value)


def test_a_schedule_without_betas_is_refused(copy):
    (copy / "scheduler/scheduler_config.json").write_text('{"_class_name": "EDMEulerScheduler"}')
    with pytest.raises(UserError, match="EDMEulerScheduler states no betas"):
        resolve_model(copy)


def test_every_kind_has_an_input_here(model):
    configs = kinds.read_configs(model, resolve.STABLE_DIFFUSION)
    no_betas = {"scheduler": {"_class_name": "EDMEulerScheduler"}}
    inputs = [{"unet": {**configs["unet"], **settings}} for settings in UNETS.values()]
    inputs += [{part: {**configs[part], **changes}} for part, changes in CONFIGS.values()]
    reached = set()
    for changed in (no_betas, *inputs):
        found = (k.name for k in kinds.KINDS if k.sign({**configs, **changed}))
        reached.add(next(found))
    assert reached == {kind.name for kind in kinds.KINDS}


def test_a_critic_of_another_kind_is_refused(copy):
    change(copy, "unet", time_cond_proj_dim=256)
    with pytest.raises(UserError, match="guidance-distilled"):
        FrozenUNet.load(copy)


def test_a_configuration_that_is_no_json_is_told(model, copy):
    (copy / "unet/config.json").write_text("{")
    with pytest.raises(UserError, match=r"unet/config\.json cannot be read"):
        resolve_model(copy)
    for part, message in (("unet", "unet cannot be loaded"), ("scheduler", "cannot be read")):
        (copy / kinds.config_file(part)).write_text("")
        with pytest.raises(UserError, match=message):
            FrozenUNet.load(copy)
        shutil.copy(model / kinds.config_file(part), copy / part)


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


def test_the_hub_is_asked_for_configurations_before_weights(monkeypatch, copy):
    change(copy, "unet", in_channels=9)
    monkeypatch.setattr(hub, "cached", lambda *args: None)
    names = [f.relative_to(copy).as_posix() for f in copy.rglob("*") if f.is_file()]
    monkeypatch.setattr(hub, "_ask_hub", lambda hub_id: names)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda hub_id, name, **options: str(copy / name)
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


def test_a_unet_alone_as_the_model_names_the_option_that_takes_it(model):
    with pytest.raises(UserError) as error:
        resolve_model(model / "unet")
    assert f"system.guidance.ckpt_path={model / 'unet'}" in str(error.value)


def test_weights_of_other_frameworks_are_named(tmp_path):
    for part in resolve.STABLE_DIFFUSION:
        (tmp_path / part).mkdir()
        (tmp_path / part / "model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="Its weights are those of ONNX"):
        resolve_model(tmp_path)


# Weights that are not those of the configuration


def test_weights_beside_their_configuration_are_refused(copy):
    """diffusers makes up what lacks and drops what has no place, with no more than a warning."""
    change(copy, "unet", attention_type="gated")
    with pytest.raises(UserError, match=r"config\.json: the file lacks .*fuser"):
        FrozenUNet.load(copy)
    change(copy, "unet", attention_type="default", mid_block_type=None)
    with pytest.raises(UserError, match="the file has besides mid_block"):
        FrozenUNet.load(copy)
    change(copy, "unet", mid_block_type="UNetMidBlock2DCrossAttn", layers_per_block=2)
    with pytest.raises(UserError, match=r"in .*unet cannot be loaded: .* expected shape") as error:
        FrozenUNet.load(copy)
    assert "ignore_mismatched_sizes" not in str(error.value)


def test_a_damaged_file_of_weights_is_told(copy):
    file = copy / "vae/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"in .*vae cannot be loaded") as error:
        StableDiffusionTeacher.from_pretrained(copy)
    assert "\n" not in str(error.value)


# Variants


@pytest.fixture
def half(model, tmp_path):
    """A model with half-precision files only."""
    teacher = StableDiffusionTeacher.from_pretrained(model)
    folder = Path(shutil.copytree(model, tmp_path / "half"))
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    teacher.unet.half().save_pretrained(folder / "unet", variant="fp16")
    teacher.vae.half().save_pretrained(folder / "vae", variant="fp16")
    encoder = teacher._text_encoder._model.half()
    encoder.save_pretrained(folder / "text_encoder", variant="fp16")
    assert not list(folder.rglob("*model.safetensors"))
    return folder


def test_half_precision_files_alone_are_loaded(model, half):
    found = StableDiffusionTeacher.from_pretrained(half, posterior="mean")
    whole = StableDiffusionTeacher.from_pretrained(model, posterior="mean")
    assert found.unet.dtype == torch.float32
    for mine, theirs in ((found.unet, whole.unet), (found.vae, whole.vae)):
        for name, value in theirs.state_dict().items():
            assert torch.equal(mine.state_dict()[name], value.half().float()), name
    text = ["a red mug"]
    ours, theirs = found.embed_text(text).tokens, whole.embed_text(text).tokens
    torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.01)


def test_a_checkpoint_folder_of_half_precision_files_is_loaded(model, half):
    for checkpoint in (half, half / "unet"):
        found = StableDiffusionTeacher.from_pretrained(model, checkpoint=checkpoint)
        whole = StableDiffusionTeacher.from_pretrained(half)
        for name, value in whole.unet.state_dict().items():
            assert torch.equal(found.unet.state_dict()[name], value), name


def test_a_part_may_have_the_one_and_another_the_other(model, half):
    shutil.rmtree(half / "vae")
    shutil.copytree(model / "vae", half / "vae")
    assert variant_of(half, "unet") == "fp16" and variant_of(half, "vae") is None
    StableDiffusionTeacher.from_pretrained(half)


def test_sharded_variants_are_loaded(model, half):
    teacher = StableDiffusionTeacher.from_pretrained(half)
    (half / "unet/diffusion_pytorch_model.fp16.safetensors").unlink()
    teacher.unet.half().save_pretrained(half / "unet", variant="fp16", max_shard_size="100KB")
    assert len(list((half / "unet").glob("*.safetensors"))) > 1
    again = FrozenUNet.load(half)
    for name, value in teacher.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[name], value.float()), name


def test_the_best_set_of_weights_is_taken():
    stem = "unet/diffusion_pytorch_model"
    order = [
        f"{stem}.safetensors",
        f"{stem}.bin",
        f"{stem}.fp16.safetensors",
        f"{stem}.fp16.bin",
        f"{stem}-00001-of-00001.bf16.safetensors",
        f"{stem}.non_ema.safetensors",
    ]
    while order:
        assert component_files(["unet/config.json", *order], "unet")[-1] == order.pop(0)
    assert component_files(["unet/config.json", f"{stem}.fancy.safetensors"], "unet") == []


# Checkpoints of another kind


def refused_checkpoint(model, checkpoint):
    with pytest.raises(UserError) as error:
        StableDiffusionTeacher.from_pretrained(model, checkpoint=checkpoint)
    return str(error.value)


@pytest.mark.parametrize("kind", ["an SDXL model", "an inpainting model", "a guidance-distilled"])
def test_a_checkpoint_of_another_kind_is_refused_by_name(model, tmp_path, kind):
    settings = next(value for key, value in UNETS.items() if key.startswith(kind))
    unet = UNet2DConditionModel(**{**TINY, **settings})
    unet.save_pretrained(tmp_path / "unet")
    save_file(unet.state_dict(), tmp_path / "unet.safetensors")
    torch.save({"state_dict": unet.state_dict()}, tmp_path / "unet.ckpt")
    for name in ("unet", "unet.safetensors", "unet.ckpt"):
        assert kind in refused_checkpoint(model, tmp_path / name)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("lora_unet_mid_block.lora_up.weight", "is a LoRA: give it as LoRA_path"),
        ("unet.mid_block.to_q.lora.down.weight", "is a LoRA"),
        ("double_blocks.0.img_attn.qkv.weight", "is a diffusion transformer"),
        ("model.diffusion_model.joint_blocks.0.x.weight", "is a diffusion transformer"),
        ("control_model.input_blocks.0.0.weight", "is a ControlNet"),
        ("emb_params", "is a textual inversion"),
        ("encoder.down.0.block.0.conv1.weight", "is an autoencoder alone"),
    ],
)
def test_files_that_are_no_model_are_named(model, tmp_path, key, message):
    save_file({key: torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    assert message in refused_checkpoint(model, tmp_path / "a.safetensors")


def test_a_checkpoint_of_another_prediction_type_is_refused(model, tmp_path):
    other = write_random_sd(tmp_path / "v", "v_prediction")
    message = refused_checkpoint(model, other)
    assert "trained with prediction_type v_prediction" in message and "epsilon" in message
    state = FrozenUNet.load(other).unet.state_dict()
    save_file(state | {"v_pred": torch.zeros(1)}, tmp_path / "marked.safetensors")
    assert "v_prediction" in refused_checkpoint(model, tmp_path / "marked.safetensors")
    stated = {"modelspec.prediction_type": "v"}
    save_file(state, tmp_path / "stated.safetensors", metadata=stated)
    assert "v_prediction" in refused_checkpoint(model, tmp_path / "stated.safetensors")
    StableDiffusionTeacher.from_pretrained(other, checkpoint=tmp_path / "stated.safetensors")


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
