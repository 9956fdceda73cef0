"""LoRA files that cannot be applied are refused, and the message names why."""

import pytest
import torch
from ldm_names import ldm
from lora_draws import NAMES, Draw, draw_file, drawn_lora, lora
from lora_kinds import peft_config, without_alpha
from lora_unets import restored

from threestudio_asd.errors import UserError
from threestudio_asd.teachers.lora.fuse import fuse_lora

# What is done to a good file, and what the message must name


def key_of(drawn, part, d):
    return d.rng.choice(sorted(key for key in drawn.state if key.endswith(part)))


def with_tensor(key, *shape):
    def change(d, drawn):
        drawn.state[key] = d.tensor(*shape)

    return change


def without(part):
    return lambda d, drawn: drawn.state.pop(key_of(drawn, part, d))


def replaced(part, value):
    def change(d, drawn):
        key = key_of(drawn, part, d)
        drawn.state[key] = value(drawn.state[key])

    return change


def noted(**metadata):
    return lambda d, drawn: drawn.metadata.update(metadata)


def twice(d, drawn):
    path = d.rng.choice(drawn.layers)
    drawn.state |= {
        NAMES["kohya, LDM"](path, part): drawn.state[NAMES["kohya"](path, part)]
        for part in ("down", "up", "alpha")
    }


def two_adapters(d, drawn):
    key = key_of(drawn, "lora_down.weight", d)
    drawn.state[key.replace("lora_down", "lora_A.second")] = drawn.state[key]


def full_lokr(d, drawn):
    drawn.state |= {f"{LAYER}.lokr_w1": d.tensor(2, 2), f"{LAYER}.lokr_w2": d.tensor(8, 8, 1, 1)}
    drawn.state = {key: value for key, value in drawn.state.items() if key.startswith(LAYER)}
    drawn.metadata = {"ss_network_args": '{"rs_lora": true}'}


def lengths(d, drawn):
    drawn.state[key_of(drawn, "lora_up.weight", d).replace("lora_up.weight", "dora_scale")] = (
        d.tensor(5)
    )


def undecomposed(d, drawn):
    drawn.config = peft_config(use_dora=True)
    for key in [key for key in drawn.state if key.endswith("alpha")]:
        del drawn.state[key]


def settings(**values):
    def change(d, drawn):
        renamed = draw_file(d, without_alpha, ("PEFT",))
        drawn.state, drawn.config = renamed.state, peft_config(**values)

    return change


def forgotten_config(d, drawn):
    drawn.state = draw_file(d, without_alpha, ("PEFT",)).state


def disagreeing(d, drawn):
    drawn.state = draw_file(d, lora, ("PEFT",)).state
    drawn.config = peft_config(lora_alpha=777)


def only(key, *shape):
    def change(d, drawn):
        drawn.state = {key: d.tensor(*shape)}

    return change


def whole_model(d, drawn):
    drawn.state = {f"model.diffusion_model.{ldm('conv_in')}.weight": d.tensor(16, 4, 3, 3)}


LAYER = "lora_unet_down_blocks_0_attentions_0_proj_in"
REFUSED = {
    "a tensor of an unknown kind": (
        with_tensor(f"{LAYER}.mystery", 2),
        r"unknown kind \(.*mystery",
    ),
    "a whole weight beside the layers": (
        with_tensor("unet.conv_in.weight", 16, 4, 3, 3),
        r"whole weights beside its changes \(unet.conv_in.weight",
    ),
    "a layer that is not there": (
        with_tensor("lora_unet_down_blocks_7_proj_in.diff", 4, 4),
        "no layer lora_unet_down_blocks_7_proj_in",
    ),
    "a layer of SDXL": (
        with_tensor("lora_unet_input_blocks_8_1_attn2_to_k.lora_down.weight", 4, 2048),
        "no layer lora_unet_input_blocks_8_1_attn2_to_k.*made for SDXL.*SDXL cannot be a teacher",
    ),
    "down without up": (without("lora_up.weight"), "lacks up"),
    "up without down": (without("lora_down.weight"), "lacks down"),
    "another rank": (replaced("lora_up.weight", lambda up: up[:, :0]), "do not fit each other"),
    "another width": (replaced("lora_down.weight", lambda down: down[:, 1:]), "the layer's are"),
    "another height": (replaced("lora_up.weight", lambda up: up[1:]), "the layer's are"),
    "no numbers": (replaced("lora_up.weight", lambda up: up / 0.0), "not finite"),
    "integers": (replaced("lora_up.weight", lambda up: up.to(torch.int8)), "quantised"),
    "a resize that lost an alpha": (
        lambda d, drawn: (
            noted(ss_network_alpha="Dynamic")(d, drawn),
            without(".alpha")(d, drawn),
        ),
        "strength .* unclear: the metadata says that alpha is Dynamic",
    ),
    "LoKr of full factors, rank-stabilised": (full_lokr, "two full factors"),
    "two alphas in a layer": (
        replaced(".alpha", lambda _: torch.ones(2)),
        "alpha is not one number",
    ),
    "an alpha alone": (with_tensor(f"{LAYER}.alpha", 1), "nothing in it goes with alpha"),
    "a bias where none is": (
        with_tensor(
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.diff_b", 16
        ),
        "the layer has none",
    ),
    "lengths of nothing": (with_tensor("lora_unet_conv_in.dora_scale", 16), "goes with dora_scale"),
    "lengths of another number": (lengths, "5 lengths are not one for each"),
    "a layer twice": (twice, "twice, under two names"),
    "two adapters": (two_adapters, "twice: several adapters"),
    "no rank-stabilised scale for sure": (
        noted(ss_network_args='{"rs_lora": "True"}'),
        "strength .* unclear.*rank-stabilised",
    ),
    "PEFT without its settings": (forgotten_config, "adapter_config.json"),
    "PEFT's settings against alpha": (disagreeing, "strength .* unclear: alpha beside"),
    "PEFT with PiSSA": (settings(init_lora_weights="pissa"), "init_lora_weights: pissa"),
    "PEFT with OLoRA": (settings(init_lora_weights="olora"), "init_lora_weights: olora"),
    "PEFT's future": (
        settings(use_new_formula=True),
        "use_new_formula: True, which is not supported",
    ),
    "PEFT of another kind": (settings(peft_type="BOFT"), "of kind BOFT"),
    "PEFT without alpha": (settings(lora_alpha=None), "states no alpha"),
    "PEFT with a broken pattern": (settings(alpha_pattern={"(": 3}), "is no pattern"),
    "DoRA without its lengths": (undecomposed, "use_dora"),
    "OFT": (with_tensor(f"{LAYER}.oft_blocks", 2, 4, 4), "OFT"),
    "GLoRA": (with_tensor(f"{LAYER}.a1.weight", 2, 4), "GLoRA"),
    "(IA)^3": (with_tensor(f"{LAYER}.on_input", 1), r"\(IA\)\^3"),
    "T-LoRA": (with_tensor(f"{LAYER}.lambda_layer", 1, 4), "T-LoRA"),
    "VeRA": (with_tensor("base_model.model.conv_in.vera_lambda_b", 4), "VeRA"),
    "AdaLoRA": (with_tensor("base_model.model.conv_in.lora_E", 4), "AdaLoRA"),
    "Custom Diffusion": (
        with_tensor("a.attn2.processor.to_k_custom_diffusion.weight", 4, 4),
        "Custom Diffusion",
    ),
    "an IP-Adapter": (only("ip_adapter.1.to_k_ip.weight", 4, 4), "IP-Adapter"),
    "a Control-LoRA": (with_tensor("lora_controlnet", 0), "Control-LoRA"),
    "a motion module": (only("down_blocks.0.motion_modules.0.proj_in.weight", 4, 4), "AnimateDiff"),
    "numbered layers": (only("unet:0:up", 4, 4), "lora_diffusion"),
    "Flux": (only("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", 4, 4), "transformer"),
    "Stable Diffusion 3": (
        only("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", 4, 4),
        "transformer",
    ),
    "learned words": (only("emb_params", 2, 24), "textual inversion"),
    "a whole model": (whole_model, "whole weights.*ckpt_path"),
    "a text encoder's part alone": (
        only("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", 2, 24),
        "no part for the UNet",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_applied_is_named(small_unets, tmp_path, kind):
    change, message = REFUSED[kind]
    for seed in range(2):
        unet, _ = restored(small_unets[seed])
        drawn = drawn_lora(draw := Draw(unet, seed), "feed-forward", "attention")
        change(draw, drawn)
        with pytest.raises(UserError, match=message) as raised:
            fuse_lora(unet, drawn.save(tmp_path / str(seed), draw.rng))
        assert str(tmp_path) in str(raised.value)
        assert "\n" not in str(raised.value)
