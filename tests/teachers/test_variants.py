"""Files of a model's weights: half-precision variants are read, what does not fit is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from model_kinds import change

from threestudio_asd.errors import UserError
from threestudio_asd.pretrained.files import component_files, variant_of
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.unet import FrozenUNet

# Weights that are not those of the configuration


def test_weights_beside_their_configuration_are_refused(sd_copy):
    """diffusers makes up what lacks and drops what has no place, with no more than a warning."""
    change(sd_copy, "unet", attention_type="gated")
    with pytest.raises(UserError, match=r"config\.json: the file lacks .*fuser"):
        FrozenUNet.load(sd_copy)
    change(sd_copy, "unet", attention_type="default", mid_block_type=None)
    with pytest.raises(UserError, match="the file has besides mid_block"):
        FrozenUNet.load(sd_copy)
    change(sd_copy, "unet", mid_block_type="UNetMidBlock2DCrossAttn", layers_per_block=2)
    with pytest.raises(UserError, match=r"in .*unet cannot be loaded: .* expected shape") as error:
        FrozenUNet.load(sd_copy)
    assert "ignore_mismatched_sizes" not in str(error.value)


def test_a_damaged_file_of_weights_is_told(sd_copy):
    file = sd_copy / "vae/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"in .*vae cannot be loaded") as error:
        StableDiffusionTeacher.from_pretrained(sd_copy)
    assert "\n" not in str(error.value)


# Variants


@pytest.fixture
def half(random_sd, tmp_path):
    """A model with half-precision files only."""
    teacher = StableDiffusionTeacher.from_pretrained(random_sd)
    folder = Path(shutil.copytree(random_sd, tmp_path / "half"))
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    teacher.unet.half().save_pretrained(folder / "unet", variant="fp16")
    teacher.vae.half().save_pretrained(folder / "vae", variant="fp16")
    encoder = teacher._text_encoder._model.half()
    encoder.save_pretrained(folder / "text_encoder", variant="fp16")
    assert not list(folder.rglob("*model.safetensors"))
    return folder


def test_half_precision_files_alone_are_loaded(random_sd, half):
    found = StableDiffusionTeacher.from_pretrained(half, posterior="mean")
    whole = StableDiffusionTeacher.from_pretrained(random_sd, posterior="mean")
    assert found.unet.dtype == torch.float32
    for mine, theirs in ((found.unet, whole.unet), (found.vae, whole.vae)):
        for name, value in theirs.state_dict().items():
            assert torch.equal(mine.state_dict()[name], value.half().float()), name
    text = ["a red mug"]
    ours, theirs = found.embed_text(text).tokens, whole.embed_text(text).tokens
    torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.01)


def test_a_checkpoint_folder_of_half_precision_files_is_loaded(random_sd, half):
    for checkpoint in (half, half / "unet"):
        found = StableDiffusionTeacher.from_pretrained(random_sd, checkpoint=checkpoint)
        whole = StableDiffusionTeacher.from_pretrained(half)
        for name, value in whole.unet.state_dict().items():
            assert torch.equal(found.unet.state_dict()[name], value), name


def test_a_part_may_have_the_one_and_another_the_other(random_sd, half):
    shutil.rmtree(half / "vae")
    shutil.copytree(random_sd / "vae", half / "vae")
    assert variant_of(half, "unet") == "fp16" and variant_of(half, "vae") is None
    StableDiffusionTeacher.from_pretrained(half)


def test_sharded_variants_are_loaded(random_sd, half):
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
