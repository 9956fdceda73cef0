"""MVDream at its true size, without numbers: every name and shape of the official networks."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from mvdream_files import PREFIX, metadata

from threestudio_asd.errors import UserError
from threestudio_asd.teachers.checkpoint_kinds import unet_config
from threestudio_asd.teachers.weights import Checkpoint, load_part, views_of

# What the configurations of Stable Diffusion say besides diffusers' defaults.
UNETS = {
    "sd-v2.1-base-4view": {
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "sd-v1.5-4view": {"attention_head_dim": 8, "cross_attention_dim": 768},
}
PARAMETERS = {"sd-v2.1-base-4view": 865_910_724, "sd-v1.5-4view": 859_520_964}
CAMERA_PARAMETERS = 16 * 1280 + 1280 + 1280 * 1280 + 1280
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}


@pytest.fixture(params=UNETS)
def model(request, tmp_path):
    """A folder with a model's configurations, and the official network's shapes."""
    for part, config in (("unet", UNETS[request.param]), ("vae", VAE)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    return request.param, tmp_path, metadata("full_size")[request.param]


def checkpoint(shapes, prefix=PREFIX, device="meta"):
    """A file with tensors of these shapes, without memory."""
    found = Checkpoint("official.pt")
    one = torch.zeros((), device=device)
    found.state = {k: one.expand(s) for k, s in shapes.items() if k.startswith(prefix)}
    return found


def loaded(folder, shapes):
    return load_part(UNet2DConditionModel, folder, "unet", torch.float32, checkpoint(shapes))


def test_every_tensor_of_the_unet_has_its_place(model):
    name, folder, shapes = model
    unet = loaded(folder, shapes)
    state, official = unet.state_dict(), checkpoint(shapes).state
    assert len(state) == len(official)
    assert all(value.is_meta for value in state.values())
    assert sorted(map(tuple, (v.shape for v in state.values()))) == sorted(
        tuple(v.shape) for v in official.values()
    )
    count = sum(value.numel() for value in state.values())
    assert count == PARAMETERS[name] + CAMERA_PARAMETERS
    assert unet.class_embedding.linear_1.weight.shape == (1280, 16)
    assert unet.config.sample_size == 32
    assert views_of(folder, checkpoint(shapes)) == 4
    config = unet_config({k: tuple(v) for k, v in shapes.items()})
    assert config["cross_attention_dim"] == UNETS[name]["cross_attention_dim"]
    assert config["projection_class_embeddings_input_dim"] == 16


@pytest.mark.parametrize("slip", ["one less", "one more", "another shape"])
def test_a_slip_is_noticed(model, slip):
    _, folder, shapes = model
    last = list(checkpoint(shapes).state)[-9]
    if slip == "one less":
        del shapes[last]
    elif slip == "one more":
        shapes[PREFIX + "output_blocks.11.3.weight"] = [1]
    else:
        shapes[last] = [*shapes[last][:-1], shapes[last][-1] + 1]
    with pytest.raises(UserError, match="do not fit the unet"):
        loaded(folder, shapes)


def test_the_networks_of_one_name_are_not_mistaken_for_the_other(model):
    name, folder, _ = model
    other = next(n for n in UNETS if n != name)
    with pytest.raises(UserError, match="do not fit the unet"):
        loaded(folder, metadata("full_size")[other])


def test_every_tensor_of_the_autoencoder_has_its_place(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/config.json").write_text(json.dumps(VAE))
    official = checkpoint(metadata("full_size")["sd-v2.1-base-4view"], "first_stage_model.", "cpu")
    vae = load_part(AutoencoderKL, tmp_path, "vae", torch.float16, official)
    state = vae.state_dict()
    assert len(state) == len(official.state)
    count = sum(value.numel() for value in official.state.values())
    assert sum(value.numel() for value in state.values()) == count
