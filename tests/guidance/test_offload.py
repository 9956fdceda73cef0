"""Sequential offload; the CPU is the device here, the mechanism the same."""

from dataclasses import replace

import pytest
import torch

from threestudio_asd.critics.lora import LoRACritic
from threestudio_asd.guidance.memory import offload_frozen
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny.random_sd import write_random_sd


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_sd(tmp_path_factory.mktemp("sd"))


def results(folder, offloaded):
    """Teacher's and critic's predictions, an encoded image, and the gradients of their sum."""
    torch.manual_seed(0)
    teacher = StableDiffusionTeacher.from_pretrained(folder, posterior="mean")
    critic = LoRACritic(teacher.net)
    torch.nn.init.normal_(critic.camera.mlp.linear_2.weight)
    if offloaded:
        offload_frozen(teacher.unet, "cpu")
        offload_frozen(teacher.vae, "cpu")
        frozen = [p for p in teacher.unet.parameters() if not p.requires_grad]
        assert frozen and all(p.is_meta for p in frozen)
        assert not any(p.is_meta for p in critic.parameters())
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    text, t, camera = torch.randn(2, 5, 24), torch.tensor([20, 700]), torch.randn(2, 4, 4)
    text = Condition(text)
    told = replace(text, camera=camera)
    x_t = teacher.encode(images)
    outputs = [x_t, teacher.epsilon(x_t, t, text), critic.epsilon(x_t, t, told)]
    sum(output.square().sum() for output in outputs).backward()
    return [*outputs, images.grad, *(p.grad for p in critic.parameters())]


def test_offloaded_weights_give_the_same_predictions_and_gradients(folder):
    for got, expected in zip(results(folder, True), results(folder, False), strict=True):
        torch.testing.assert_close(got, expected)
