"""LoRA files that PEFT and diffusers write are merged as PEFT and diffusers merge them."""

import copy

import pytest
import torch
from lora_unets import differing, restored

from threestudio_asd.teachers.lora.fuse import fuse_lora


def random_adapter(network, seed):
    """Give the adapter's tensors values, also those that begin as zero."""
    torch.manual_seed(seed)
    for name, parameter in network.named_parameters():
        if any(part in name for part in ("lora_", "hada_", "lokr_")):
            value = torch.randn_like(parameter)
            parameter.data = value.abs() + 1 if "magnitude" in name else value / 3


PATTERNS = {
    "rank_pattern": {"to_q": 2, "conv1": 5},
    "alpha_pattern": {"to_k": 1, "mid_block.*conv2": 7},
}
TARGETS = ["to_q", "to_k", "to_out.0", "proj_in", "net.2", "conv1", "conv2", "conv_shortcut"]
CONFIGS = {
    "plain": ("LoraConfig", {"lora_alpha": 6}),
    "rank-stabilised, patterns": ("LoraConfig", {"lora_alpha": 6, "use_rslora": True, **PATTERNS}),
    "weight-decomposed": ("LoraConfig", {"lora_alpha": 6, "use_dora": True, **PATTERNS}),
    "bias": ("LoraConfig", {"lora_alpha": 6, "lora_bias": True, "target_modules": ["net.2"]}),
    "LoHa": ("LoHaConfig", {"alpha": 6, "use_effective_conv2d": True}),
    "LoKr": ("LoKrConfig", {"alpha": 6, "decompose_both": True, "use_effective_conv2d": True}),
    "LoKr of full factors": ("LoKrConfig", {"alpha": 6, "r": 32}),
}


@pytest.mark.filterwarnings("ignore:.*have invalid shape")  # PEFT's of its own lora_bias
@pytest.mark.parametrize("config", CONFIGS)
def test_pefts_folders_merge_as_peft_merges_them(small_unets, tmp_path, config):
    import peft

    name, options = CONFIGS[config]
    unet, _ = restored(small_unets[0])
    settings = getattr(peft, name)(**{"r": 3, "target_modules": TARGETS, **options})
    network = peft.get_peft_model(copy.deepcopy(unet), settings)
    random_adapter(network, seed=0)
    network.save_pretrained(tmp_path)
    merged = network.merge_and_unload().state_dict()
    fuse_lora(unet, tmp_path)
    assert differing(unet, merged, rtol=1e-5, atol=1e-5) == []


@pytest.mark.parametrize("whole", [False, True])
def test_diffusers_files_merge_as_diffusers_merges_them(small_unets, tmp_path, whole):
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet, _ = restored(small_unets[0])
    network = copy.deepcopy(unet)
    network.add_adapter(LoraConfig(r=3, target_modules=TARGETS, lora_alpha=6, **PATTERNS))
    random_adapter(network, seed=0)
    if whole:  # as a pipeline saves it
        StableDiffusionPipeline.save_lora_weights(
            tmp_path,
            get_peft_model_state_dict(network),
            unet_lora_adapter_metadata=network.peft_config["default"].to_dict(),
        )
    else:
        network.save_lora_adapter(tmp_path)
    network.fuse_lora()
    network.unload_lora()
    fuse_lora(unet, tmp_path)
    assert differing(unet, network.state_dict(), rtol=1e-5, atol=1e-5) == []
