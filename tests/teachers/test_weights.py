"""Checkpoints and LoRAs of the user's, on a small random model."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

from threestudio_asd.errors import UserError
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny.random_sd import write_random_sd

load = StableDiffusionTeacher.from_pretrained
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


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


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.upsamplers.0": "output_blocks.1.1",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def original_unet(state):
    """Names as in Stable Diffusion's own checkpoints."""
    result = {}
    for name, value in state.items():
        block = next(block for block in BLOCKS if name.startswith(block + "."))
        rest = name.removeprefix(block + ".")
        if "resnets" in block:
            part, _, kind = rest.rpartition(".")
            rest = f"{RESNET[part]}.{kind}"
        result[f"model.diffusion_model.{BLOCKS[block]}.{rest}"] = value
    return result


def original_vae(state):
    """Names as in Stable Diffusion's own checkpoints: four levels, one attention."""
    changes = {
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2",
        "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
        "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
        "mid_block.attentions.0.to_": "mid.attn_1.",
        "conv_shortcut": "nin_shortcut",
        "conv_norm_out": "norm_out",
        ".resnets.": ".block.",
        ".downsamplers.0.": ".downsample.",
        ".upsamplers.0.": ".upsample.",
    }
    changes |= {f"down_blocks.{i}.": f"down.{i}." for i in range(4)}
    changes |= {f"up_blocks.{i}.": f"up.{3 - i}." for i in range(4)}
    result = {}
    for name, value in state.items():
        for old, new in changes.items():
            name = name.replace(old, new)
        result[f"first_stage_model.{name}"] = value
    return result


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


# LoRAs


def low_rank(rank=2):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(rank, 24, generator=generator), torch.randn(16, rank, generator=generator)


def diffusers_lora(down, up):
    return {f"unet.{LAYER}.lora_A.weight": down, f"unet.{LAYER}.lora_B.weight": up}


def kohya_lora(down, up, alpha):
    name = "lora_unet_" + LAYER.replace(".", "_")
    factors = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(alpha)}
    return {f"{name}.{key}": value for key, value in factors.items()}


@pytest.mark.parametrize("form", ["diffusers", "diffusers folder", "kohya"])
def test_a_lora_is_added_to_the_unet(folder, tmp_path, form):
    down, up = low_rank()
    path, scale = tmp_path / "lora.safetensors", 1.0
    if form == "kohya":
        scale = 0.5  # alpha / rank
        save_file(kohya_lora(down, up, alpha=1.0), path)
    else:
        text = {"text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": torch.ones(2, 24)}
        folder_form = form == "diffusers folder"
        path = tmp_path / "pytorch_lora_weights.safetensors" if folder_form else path
        save_file(diffusers_lora(down, up) | text, path)
        path = tmp_path if folder_form else path
    expected = weights(load(folder).unet)
    expected[f"{LAYER}.weight"] += scale * up @ down
    teacher = load(folder, lora=path)
    assert_same(teacher.unet, expected)
    assert not any(p.requires_grad for p in teacher.unet.parameters())
    assert not getattr(teacher.unet, "peft_config", None)


def test_a_lora_is_added_in_half_precision(folder, tmp_path):
    down, up = low_rank()
    save_file(diffusers_lora(down, up), tmp_path / "lora.safetensors")
    teacher = load(folder, dtype="bf16", lora=tmp_path / "lora.safetensors")
    got = teacher.unet.get_submodule(LAYER).weight
    assert got.dtype == torch.bfloat16
    expected = load(folder).unet.get_submodule(LAYER).weight + up @ down
    torch.testing.assert_close(got.float(), expected, rtol=0.02, atol=0.02)


def test_loras_that_cannot_be_used_are_told(folder, tmp_path):
    down, up = low_rank()
    text = "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_"
    save_file({f"{text}A.weight": down, f"{text}B.weight": up}, tmp_path / "text.safetensors")
    save_file(diffusers_lora(down[:, :20].contiguous(), up), tmp_path / "other.safetensors")
    for name, message in (
        ("nothing.safetensors", "no such file"),
        ("text.safetensors", "no part for the UNet"),
        ("other.safetensors", "do not fit the unet of the teacher"),
    ):
        with pytest.raises(UserError, match=message):
            load(folder, lora=tmp_path / name)


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
