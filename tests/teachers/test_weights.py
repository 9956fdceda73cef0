"""Checkpoints of the user's, on a small random model."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from ldm_names import original_unet
from original_vae import original_vae
from safetensors.torch import save_file

from threestudio_asd.errors import UserError
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny.random_sd import write_random_sd

load = StableDiffusionTeacher.from_pretrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another model of the same architecture: where the checkpoints come from."""
    return write_random_sd(tmp_path_factory.mktemp("other"), seed=1)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(module, state):
    got = module.state_dict()
    assert set(got) == set(state)
    for name, value in state.items():
        torch.testing.assert_close(got[name], value, msg=name)


def test_a_whole_original_checkpoint_replaces_unet_and_vae(folder, other, tmp_path):
    source = load(other)
    unet, vae = weights(source.unet), weights(source.vae)
    state = original_unet(unet) | original_vae(vae) | {"alphas_cumprod": torch.ones(1000)}
    save_file(state, tmp_path / "model.safetensors")
    torch.save({"state_dict": state, "global_step": 7}, tmp_path / "model.ckpt")
    for name in ("model.safetensors", "model.ckpt"):
        teacher = load(folder, checkpoint=tmp_path / name)
        assert_same(teacher.unet, unet)
        assert_same(teacher.vae, vae)


@pytest.mark.parametrize("form", ["original", "diffusers", "folder", "model folder"])
def test_a_unet_alone_leaves_the_vae(folder, other, tmp_path, form):
    unet, vae = weights(load(other).unet), weights(load(folder).vae)
    path = tmp_path / "unet.safetensors"
    if form == "original":
        save_file(original_unet(unet), path)
    elif form == "diffusers":
        save_file(unet, path)
    elif form == "folder":
        path = other / "unet"
    else:
        path = tmp_path / "model"
        shutil.copytree(other / "unet", path / "unet")
    teacher = load(folder, checkpoint=path)
    assert_same(teacher.unet, unet)
    assert_same(teacher.vae, vae)


def test_a_model_folder_replaces_both(folder, other):
    teacher = load(folder, checkpoint=other)
    assert_same(teacher.unet, weights(load(other).unet))
    assert_same(teacher.vae, weights(load(other).vae))


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_a_checkpoint_is_read_once(folder, other, tmp_path, monkeypatch, name):
    source, reads = load(other), []
    state = original_unet(weights(source.unet)) | original_vae(weights(source.vae))
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)

    def counted(read):
        def reading(file, *args, **kwargs):
            reads.append(Path(file))
            return read(file, *args, **kwargs)

        return reading

    for module, function in ((safetensors.torch, "load_file"), (torch, "load")):
        monkeypatch.setattr(module, function, counted(getattr(module, function)))
    load(folder, checkpoint=tmp_path / name)
    assert reads.count(tmp_path / name) == 1


def test_checkpoints_are_read_in_the_teachers_precision(folder, other, tmp_path):
    save_file(weights(load(other).unet), tmp_path / "unet.safetensors")
    teacher = load(folder, dtype="bf16", checkpoint=tmp_path / "unet.safetensors")
    assert teacher.unet.dtype == teacher.vae.dtype == torch.bfloat16


def test_checkpoints_that_cannot_be_used_are_told(folder, tmp_path):
    (tmp_path / "broken.safetensors").write_text("no weights")
    (tmp_path / "broken.ckpt").write_text("no weights")
    (tmp_path / "empty").mkdir()
    bigger = load(write_random_sd(tmp_path / "bigger", widths=(24, 32)))
    save_file(weights(bigger.unet), tmp_path / "bigger.safetensors")
    part = dict(list(weights(load(folder).unet).items())[:-4])
    save_file(part, tmp_path / "part.safetensors")
    for name, message in (
        ("nothing.ckpt", "no such file"),
        ("broken.safetensors", "cannot be read"),
        ("broken.ckpt", "cannot be read"),
        ("empty", "neither a model nor a UNet"),
        ("bigger.safetensors", "do not fit the unet"),
        ("part.safetensors", "do not fit the unet"),
    ):
        with pytest.raises(UserError, match=message):
            load(folder, checkpoint=tmp_path / name)


# The autoencoder in half precision


@pytest.mark.parametrize(("upcast", "dtype"), [(True, torch.float32), (False, torch.float16)])
def test_the_vae_stays_in_single_precision_unless_its_config_allows_half(
    folder, tmp_path, upcast, dtype
):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    config = copy / "vae/config.json"
    text = config.read_text()
    assert '"force_upcast": true' in text  # diffusers' default, hence Stable Diffusion's
    config.write_text(
        text.replace('"force_upcast": true', f'"force_upcast": {str(upcast).lower()}')
    )
    assert load(copy, dtype="fp16").vae.dtype == dtype
