"""Checkpoints of another kind than their model are refused by name."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from model_kinds import TINY, UNETS
from safetensors.torch import save_file

from threestudio_asd.errors import UserError
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny.random_sd import write_random_sd


def refused_checkpoint(model, checkpoint):
    with pytest.raises(UserError) as error:
        StableDiffusionTeacher.from_pretrained(model, checkpoint=checkpoint)
    return str(error.value)


@pytest.mark.parametrize("kind", ["an SDXL model", "an inpainting model", "a guidance-distilled"])
def test_a_checkpoint_of_another_kind_is_refused_by_name(random_sd, tmp_path, kind):
    settings = next(value for key, value in UNETS.items() if key.startswith(kind))
    unet = UNet2DConditionModel(**{**TINY, **settings})
    unet.save_pretrained(tmp_path / "unet")
    save_file(unet.state_dict(), tmp_path / "unet.safetensors")
    torch.save({"state_dict": unet.state_dict()}, tmp_path / "unet.ckpt")
    for name in ("unet", "unet.safetensors", "unet.ckpt"):
        assert kind in refused_checkpoint(random_sd, tmp_path / name)


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
def test_files_that_are_no_model_are_named(random_sd, tmp_path, key, message):
    save_file({key: torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    assert message in refused_checkpoint(random_sd, tmp_path / "a.safetensors")


def test_a_checkpoint_of_another_prediction_type_is_refused(random_sd, tmp_path):
    other = write_random_sd(tmp_path / "v", "v_prediction")
    message = refused_checkpoint(random_sd, other)
    assert "trained with prediction_type v_prediction" in message and "epsilon" in message
    state = FrozenUNet.load(other).unet.state_dict()
    save_file(state | {"v_pred": torch.zeros(1)}, tmp_path / "marked.safetensors")
    assert "v_prediction" in refused_checkpoint(random_sd, tmp_path / "marked.safetensors")
    stated = {"modelspec.prediction_type": "v"}
    save_file(state, tmp_path / "stated.safetensors", metadata=stated)
    assert "v_prediction" in refused_checkpoint(random_sd, tmp_path / "stated.safetensors")
    StableDiffusionTeacher.from_pretrained(other, checkpoint=tmp_path / "stated.safetensors")
