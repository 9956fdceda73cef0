"""Names of layers in LoRA files, at the real sizes of Stable Diffusion 1.5 and 2.1."""

import pytest
import torch
from safetensors.torch import save_file

from threestudio_asd.errors import UserError
from threestudio_asd.teachers.lora.fuse import fuse_lora
from threestudio_asd.teachers.lora.names import LayerNames

COMMON = {"sample_size": 64, "layers_per_block": 2, "block_out_channels": (320, 640, 1280, 1280)}
SIZES = {
    "1.5": {**COMMON, "cross_attention_dim": 768, "attention_head_dim": 8},
    "2.1": {
        **COMMON,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
}


@pytest.mark.parametrize("size", SIZES)
def test_original_names_are_those_of_diffusers_converter(size):
    """Its converter of checkpoints takes each tensor from the LDM name that we give its layer."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SIZES[size])
    names = LayerNames(unet)
    paths = [path for path, m in unet.named_modules() if getattr(m, "weight", None) is not None]
    original = {path: names.original(path) for path in paths}
    assert len(set(original.values())) == len(paths)
    numbers = {name: torch.tensor(i) for i, name in enumerate(unet.state_dict())}
    checkpoint = {
        "model.diffusion_model.{}.{}".format(*renamed(name, original)): number
        for name, number in numbers.items()
    }
    assert convert_ldm_unet_checkpoint(checkpoint, dict(unet.config)) == numbers
    for path in paths:
        for name in (path, original[path]):
            for spelt in (
                f"unet.{name}",
                f"diffusion_model.{name}",
                f"base_model.model.{name}",
                name,
            ):
                assert names.find(spelt) == path
            assert names.find(f"lora_unet_{name.replace('.', '_')}") == path


def test_a_lora_of_another_stable_diffusion_is_told(tmp_path):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SIZES["2.1"])
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    state = {f"{name}.lora_down.weight": torch.ones(4, 768)}
    state[f"{name}.lora_up.weight"] = torch.ones(320, 4)
    save_file(state, tmp_path / "lora.safetensors")
    message = "weights of 320 x 768, the layer's are 320 x 1024; it seems made for .* 1.x"
    with pytest.raises(UserError, match=message):
        fuse_lora(unet, tmp_path / "lora.safetensors")


def renamed(tensor, layers):
    layer, _, kind = tensor.rpartition(".")
    return layers[layer], kind
