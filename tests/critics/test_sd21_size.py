"""The critic at Stable Diffusion 2.1's exact configuration, on the meta device: sizes only."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from threestudio_asd.critics.lora import LoRACritic
from threestudio_asd.critics.memory import training_bytes
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.teachers.unet import FrozenUNet

RANK, TEXT = 4, 1024
WIDTHS = (320, 640, 1280, 1280)
UNET_PARAMETERS = 865_910_724
LORA_PARAMETERS = 829_952
CAMERA_PARAMETERS = 1_661_440


@pytest.fixture(scope="module")
def critic():
    """stable-diffusion-2-1 (v, 96 x 96 latents) in bf16 with a critic on it."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=96,
            block_out_channels=WIDTHS,
            attention_head_dim=(5, 10, 20, 20),
            cross_attention_dim=TEXT,
            use_linear_projection=True,
            upcast_attention=True,
        )
    net = FrozenUNet(unet.to(torch.bfloat16), DiscreteSchedule.scaled_linear(), "v_prediction")
    return LoRACritic(net, rank=RANK)


def test_every_shape_of_the_lora(critic):
    blocks = {f"down_blocks.{i}.attentions.{j}": WIDTHS[i] for i in range(3) for j in range(2)}
    blocks |= {f"up_blocks.{i}.attentions.{j}": WIDTHS[3 - i] for i in (1, 2, 3) for j in range(3)}
    blocks["mid_block.attentions.0"] = WIDTHS[-1]
    expected = {}
    for block, width in blocks.items():
        for layer in ("attn1", "attn2"):
            for projection in ("to_q", "to_k", "to_v", "to_out.0"):
                text = layer == "attn2" and projection in ("to_k", "to_v")
                name = f"{block}.transformer_blocks.0.{layer}.{projection}"
                expected[f"{name}.down.weight"] = (RANK, TEXT if text else width)
                expected[f"{name}.up.weight"] = (width, RANK)
    got = {name: tuple(value.shape) for name, value in critic.lora.named_parameters()}
    assert got == expected
    assert len(got) == 16 * 8 * 2


def test_every_shape_of_the_camera_embedding(critic):
    assert {name: tuple(p.shape) for name, p in critic.camera.named_parameters()} == {
        "mlp.linear_1.weight": (1280, 16),
        "mlp.linear_1.bias": (1280,),
        "mlp.linear_2.weight": (1280, 1280),
        "mlp.linear_2.bias": (1280,),
    }


def test_parameter_counts(critic):
    def count(module):
        return sum(p.numel() for p in module.parameters())

    adapter = {id(p) for p in critic.parameters()}
    unet = sum(p.numel() for p in critic.net.unet.parameters() if id(p) not in adapter)
    assert unet == UNET_PARAMETERS
    assert (count(critic.lora), count(critic.camera)) == (LORA_PARAMETERS, CAMERA_PARAMETERS)


def test_shapes_and_precisions_of_a_prediction(critic):
    x_t = torch.empty(2, 4, 96, 96, dtype=torch.bfloat16, device="meta")
    t = torch.zeros(2, dtype=torch.long, device="meta")
    text = torch.empty(2, 77, TEXT, dtype=torch.bfloat16, device="meta")
    labels = critic.camera.labels(torch.eye(4).expand(2, 4, 4), x_t)
    with critic.attached():  # not predict: autocast knows no meta device
        prediction = critic.net.unet(x_t, t, text, class_labels=labels).sample
    assert prediction.shape == (2, 4, 96, 96) and prediction.dtype == torch.bfloat16
    assert {p.dtype for p in critic.parameters()} == {torch.float32}
    frozen = {p.dtype for p in critic.net.unet.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}


def test_memory_of_one_unet_and_of_the_official_codes_two(critic):
    """One bf16 UNet and the critic's weights, gradients and Adam moments in fp32: 1.77 GB."""
    trained = 16 * (LORA_PARAMETERS + CAMERA_PARAMETERS)
    assert training_bytes(critic) == 2 * UNET_PARAMETERS + trained == 1_771_683_720
    official = 2 * 4 * UNET_PARAMETERS + trained
    assert official == 6_967_148_064
    assert 3.9 < official / training_bytes(critic) < 4.0
