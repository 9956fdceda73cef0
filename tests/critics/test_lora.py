from dataclasses import replace

import pytest
import torch
from torch import nn

from threestudio_asd.critics.lora import ATTENTION_LAYERS, RESNET_LAYERS, LoRACritic
from threestudio_asd.distill.prediction_types import from_epsilon
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny.random_sd import random_unet

SCHEDULE = DiscreteSchedule.scaled_linear()
B, L, D = 2, 5, 24


def make_unet(seed: int = 0, **changes) -> nn.Module:
    torch.manual_seed(seed)
    return random_unet(text_width=D, **changes)


def make_net() -> FrozenUNet:
    return FrozenUNet(make_unet(), SCHEDULE)


@pytest.fixture
def inputs():
    torch.manual_seed(7)
    return torch.randn(B, 4, 8, 8), torch.tensor([30, 900]), Condition(torch.randn(B, L, D))


@pytest.fixture
def camera():
    torch.manual_seed(8)
    return torch.randn(B, 4, 4)


def seen(inputs, camera):
    """The same inputs, with the camera."""
    x_t, t, condition = inputs
    return x_t, t, replace(condition, camera=camera)


def train(critic: LoRACritic, inputs, camera=None, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        critic.predict(*seen(inputs, camera)).square().mean().backward()
        optimizer.step()


def test_the_detached_unet_is_the_teacher_to_the_last_bit(inputs, camera):
    net = make_net()
    with torch.no_grad():
        before = net.epsilon(*inputs)
        critic = LoRACritic(net, target_modules=ATTENTION_LAYERS + RESNET_LAYERS)
        assert torch.equal(net.epsilon(*inputs), before)
        critic.predict(*seen(inputs, camera))
        assert torch.equal(net.epsilon(*inputs), before)
    train(critic, inputs, camera)
    with torch.no_grad():
        assert torch.equal(net.epsilon(*inputs), before)
        assert not torch.allclose(critic.predict(*seen(inputs, camera)), before, atol=1e-3)
        with pytest.raises(RuntimeError, match="on purpose"), critic.attached():
            assert not torch.equal(net.predict(*inputs, class_labels=camera.flatten(1)), before)
            raise RuntimeError("on purpose")
        assert torch.equal(net.epsilon(*inputs), before)
        critic.remove()
        assert torch.equal(net.epsilon(*inputs), before)


def test_an_untrained_critic_without_camera_predicts_what_its_unet_predicts(inputs):
    net = make_net()
    critic = LoRACritic(net, camera=False)
    with torch.no_grad():
        torch.testing.assert_close(critic.predict(*inputs), net.predict(*inputs))


def test_a_linear_layer_is_w_x_plus_up_down_x(inputs):
    net = make_net()
    critic = LoRACritic(net, rank=4, camera=False, target_modules=("attn2.to_v",))
    path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    layer, lora = net.unet.get_submodule(path), critic.lora.get_submodule(path)
    nn.init.normal_(lora.up.weight)
    x = torch.randn(3, D)
    with torch.no_grad(), critic.attached():
        expected = layer.base_layer(x) + x @ lora.down.weight.T @ lora.up.weight.T
        torch.testing.assert_close(layer(x), expected)


def test_only_the_critic_is_trained_and_saved(inputs, camera):
    net = make_net()
    frozen = {name: value.clone() for name, value in net.unet.state_dict().items()}
    critic = LoRACritic(net)
    base = [p for name, p in net.unet.named_parameters() if ".lora_" not in name]
    train(critic, inputs, camera)
    assert all(name.startswith(("lora.", "camera.")) for name in critic.state_dict())
    assert all(p.grad is None and not p.requires_grad for p in base)
    assert all(p.grad is not None for p in critic.parameters())
    assert not {id(p) for p in base} & {id(p) for p in critic.parameters()}
    after = net.unet.state_dict()
    for name, value in frozen.items():
        adapted = name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")
        assert torch.equal(value, after[name] if name in after else after[adapted])


def test_the_backward_pass_may_come_after_other_predictions(inputs, camera):
    critic = LoRACritic(make_net())
    prediction = critic.predict(*seen(inputs, camera))
    with torch.no_grad():
        critic.net.predict(*inputs)
    prediction.square().sum().backward()
    assert any(p.grad.abs().max() > 0 for p in critic.lora.parameters())


def test_a_checkpoint_restores_the_critic(inputs, camera):
    critic, other = LoRACritic(make_net()), LoRACritic(make_net())
    train(critic, inputs, camera)
    other.load_state_dict(critic.state_dict())
    with torch.no_grad():
        expected = critic.predict(*seen(inputs, camera))
        assert torch.equal(other.predict(*seen(inputs, camera)), expected)


def test_two_critics_share_one_unet(inputs, camera):
    net = make_net()
    first = LoRACritic(net, name="first")
    train(first, inputs, camera)
    with torch.no_grad():
        expected = first.predict(*seen(inputs, camera))
    second = LoRACritic(net, name="second", target_modules=ATTENTION_LAYERS + RESNET_LAYERS)
    assert all(p.requires_grad for critic in (first, second) for p in critic.parameters())
    train(second, inputs, camera)
    with torch.no_grad():
        assert torch.equal(first.predict(*seen(inputs, camera)), expected)
        with first.attached():
            assert not torch.allclose(second.predict(*seen(inputs, camera)), expected)
            labels = camera.flatten(1)
            assert torch.equal(net.predict(*inputs, class_labels=labels), expected)
    with pytest.raises(UserError, match="already"):
        LoRACritic(net, name="second")


def test_initial_weights_follow_the_seed():
    def state(seed):
        net = make_net()
        torch.manual_seed(seed)
        return LoRACritic(net).state_dict()

    first, again, other = state(3), state(3), state(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert all(not value.any() for name, value in first.items() if ".up." in name)
    assert all(value.any() for name, value in first.items() if ".down." in name)


def test_gaussian_init_has_the_official_spread():
    critic = LoRACritic(make_net(), rank=4, init="gaussian")
    down = torch.cat([v.flatten() for k, v in critic.state_dict().items() if ".down." in k])
    assert down.std().item() == pytest.approx(1 / 4, rel=0.1)


def test_the_camera_matters_only_when_given(inputs, camera):
    critic = LoRACritic(make_net())
    assert critic.camera.mlp.linear_2.out_features == 64  # the UNet's, not Stable Diffusion's 1280
    with torch.no_grad():
        with_camera = critic.predict(*seen(inputs, camera))
        hidden = critic.predict(*inputs)
        assert torch.equal(critic.predict(*seen(inputs, torch.zeros_like(camera))), hidden)
        assert not torch.allclose(with_camera, hidden)


def test_camera_dropout_hides_a_tenth_of_the_batches():
    torch.manual_seed(0)
    critic = LoRACritic(make_net())
    share = sum(critic.draw_camera_dropout() for _ in range(4000)) / 4000
    assert share == pytest.approx(0.1, abs=0.02)
    blind = LoRACritic(make_net(), camera=False, camera_dropout=1.0)
    assert not blind.draw_camera_dropout()


def test_wrong_uses_say_what_to_do(inputs, camera):
    with pytest.raises(UserError, match="camera=True"):
        LoRACritic(make_net(), camera=False).predict(*seen(inputs, camera))
    with pytest.raises(UserError, match="nothing_like_it"):
        LoRACritic(make_net(), target_modules=("nothing_like_it",))
    with pytest.raises(UserError, match="class embedding"):
        net = FrozenUNet(make_unet(num_class_embeds=3), SCHEDULE)
        LoRACritic(net)
    LoRACritic(net, camera=False)  # the refused critic left nothing behind


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_half_precision_unet_the_critic_stays_in_single(inputs, camera, dtype):
    net = FrozenUNet(make_unet().to(dtype), SCHEDULE)
    critic = LoRACritic(net)
    assert all(p.dtype == torch.float32 for p in critic.parameters())
    train(critic, inputs, camera)
    prediction = critic.predict(*seen(inputs, camera))
    assert prediction.dtype == torch.float32 and prediction.isfinite().all()
    assert net.dtype == dtype


def test_one_prediction_is_one_unet_evaluation(inputs, camera):
    net, calls = make_net(), []
    net.unet.register_forward_hook(lambda *_: calls.append(1))
    LoRACritic(net).epsilon(*seen(inputs, camera))
    assert len(calls) == 1


def stating_v(unet: nn.Module) -> nn.Module:
    """An epsilon UNet that states v from now on."""
    forward = unet.forward

    def v_forward(x_t, t, **kwargs):
        output = forward(x_t, t, **kwargs)
        output.sample = from_epsilon(SCHEDULE, output.sample, x_t, t, "v_prediction")
        return output

    unet.forward = v_forward
    return unet


@pytest.mark.parametrize("critic_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("teacher_type", ["epsilon", "v_prediction"])
def test_prediction_types_do_not_change_the_epsilons(inputs, camera, teacher_type, critic_type):
    def net(seed, kind):
        unet = make_unet(seed)
        return FrozenUNet(unet if kind == "epsilon" else stating_v(unet), SCHEDULE, kind)

    def difference(teacher_type, critic_type):
        teacher, adapted = net(0, teacher_type), net(1, critic_type)
        critic = LoRACritic(adapted)
        with torch.no_grad():
            return teacher.epsilon(*inputs) - critic.epsilon(*seen(inputs, camera))

    torch.testing.assert_close(
        difference(teacher_type, critic_type),
        difference("epsilon", "epsilon"),
        rtol=1e-5,
        atol=1e-5,
    )
