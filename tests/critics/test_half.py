"""Gradients of a critic on a float16 UNet, against those in float32."""

import gc
import weakref

import pytest
import torch
from torch import nn

from threestudio_asd.critics import half, lora
from threestudio_asd.critics.half import call_scaled
from threestudio_asd.critics.lora import LoRACritic
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny.random_sd import write_random_sd

# Of the mean over Stable Diffusion's 4 x 64 x 64 latents to that over the small model's 4 x 8 x 8.
SD_SIZE = 1 / 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def critic_in(folder):
    """A critic past its first steps on the UNet's float16 weights, computing in some precision."""

    def make(dtype):
        net = FrozenUNet.load(folder, "fp16")
        for parameter in net.unet.parameters():
            parameter.data = parameter.data.to(dtype)
        torch.manual_seed(1)
        critic = LoRACritic(net, init="gaussian")
        for name, parameter in critic.named_parameters():
            if ".up." in name:
                nn.init.normal_(parameter, std=0.02)
        return critic

    return make


@pytest.fixture
def inputs():
    torch.manual_seed(2)
    x_t, condition = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 24)
    told = Condition(condition.half().float(), camera=torch.eye(4).expand(2, 4, 4))
    return x_t.half().float(), torch.tensor([100, 700]), told


def gradients(critic, inputs, size, plain=False):
    """By kind, those of ``size`` times the mean squared error, over ``size``."""
    x_t, t, condition = inputs
    x_t = x_t.clone().requires_grad_()
    critic.zero_grad()
    prediction = critic.predict(x_t, t, condition)
    noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(3))
    (size * (prediction - noise).square().mean()).backward()
    found = {"x_t": x_t.grad.double() / size}
    for kind in ("lora", "camera"):
        of_kind = [p.grad.flatten() for n, p in critic.named_parameters() if n.startswith(kind)]
        found[kind] = torch.cat(of_kind).double() / size
    return found


def errors(found, expected):
    """Relative, in the L2 norm."""
    return {kind: float((g - expected[kind]).norm() / g.norm()) for kind, g in found.items()}


@pytest.mark.parametrize("size", [1e6, 1.0, SD_SIZE, SD_SIZE / 16])
def test_gradients_are_those_of_float32_whatever_the_losss_size(critic_in, inputs, size):
    expected = gradients(critic_in(torch.float32), inputs, 1.0)
    found = gradients(critic_in(torch.float16), inputs, size)
    assert max(errors(found, expected).values()) < 0.005


def test_without_scaling_they_are_not(critic_in, inputs, monkeypatch):
    monkeypatch.setattr(lora, "call_scaled", lambda critic, *args: critic(*args))
    expected = gradients(critic_in(torch.float32), inputs, 1.0)
    critic = critic_in(torch.float16)
    assert errors(gradients(critic, inputs, SD_SIZE), expected)["lora"] > 0.01
    assert errors(gradients(critic, inputs, SD_SIZE / 16), expected)["lora"] > 0.1


def test_the_prediction_is_that_of_a_plain_call(critic_in, inputs):
    critic, (x_t, t, condition) = critic_in(torch.float16), inputs
    scaled = critic.predict(x_t, t, condition)
    assert scaled.requires_grad
    with torch.no_grad():
        assert torch.equal(critic.predict(x_t, t, condition), scaled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_are_not_touched(critic_in, inputs, monkeypatch, dtype):
    monkeypatch.setattr(lora, "call_scaled", None)
    assert gradients(critic_in(dtype), inputs, 1.0)["lora"].any()
    with pytest.raises(TypeError, match="not callable"):
        gradients(critic_in(torch.float16), inputs, 1.0)


class Chain(nn.Module):
    """A float16 network y = gain^3 a x, whose ``a`` is a float32 parameter at its input."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.a = nn.Parameter(torch.tensor([0.5, -0.25]))

    def forward(self, x):
        y = (self.a * x).half()
        for _ in range(3):
            y = y * self.gain
        mark = nn.Identity()  # lives as long as the graph
        y.grad_fn.metadata["mark"], self.graph = mark, weakref.ref(mark)
        return y.float()


@pytest.fixture
def passes(monkeypatch):
    """The largest entry of each gradient that enters the network."""
    seen, backward = [], torch.autograd.grad

    def counted(output, leaves, gradient, **kwargs):
        seen.append(float(gradient.abs().max()))
        return backward(output, leaves, gradient, **kwargs)

    monkeypatch.setattr(half.torch.autograd, "grad", counted)
    return seen


X = torch.tensor([0.01, 0.02])


def test_a_pass_that_overflows_is_repeated_with_a_smaller_scale(passes):
    chain = Chain(gain=32.0)  # gradients grow by 2^15; 2^4 times that is infinite in float16
    call_scaled(chain, X).sum().backward()
    assert passes == [2.0**4, 2.0**-4]
    torch.testing.assert_close(chain.a.grad, 2.0**15 * X)


@pytest.mark.parametrize("poison", [torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_stays_so(passes, poison):
    chain = Chain(gain=1.0)
    call_scaled(chain, X).backward(torch.tensor([1.0, poison]))
    assert not chain.a.grad.isfinite().all() and len(passes) == 1


def test_a_gradient_that_no_scale_can_save_is_not_finite(passes):
    chain = Chain(gain=2.0**12)
    call_scaled(chain, X * 1e-8).sum().backward()
    assert not chain.a.grad.isfinite().any()
    assert passes == list(half.PEAKS)


def test_no_gradient_is_none(passes):
    chain = Chain(gain=1.0)
    (0.0 * call_scaled(chain, X)).sum().backward()
    assert torch.equal(chain.a.grad, torch.zeros(2))


@pytest.mark.parametrize("keep", [False, True])
def test_what_the_network_keeps_for_the_backward_pass_is_freed_with_the_graph(keep):
    chain = Chain(gain=1.0)
    loss = call_scaled(chain, X).sum()
    gc.collect()
    assert chain.graph() is not None
    loss.backward(retain_graph=keep)
    gc.collect()
    assert (chain.graph() is not None) == keep
    if keep:
        loss.backward()
        torch.testing.assert_close(chain.a.grad, 2 * X, rtol=1e-3, atol=0.0)


def test_hooks_of_a_parameter_see_the_true_gradient_once():
    chain, seen = Chain(gain=1.0), []
    chain.a.register_hook(lambda g: seen.append(g) or g.clamp(max=1e-5))
    (1e-3 * call_scaled(chain, X)).sum().backward()
    (gradient,) = seen
    torch.testing.assert_close(gradient, 1e-3 * X, rtol=1e-3, atol=0.0)
    torch.testing.assert_close(chain.a.grad, torch.full((2,), 1e-5))


def test_second_derivatives_are_refused():
    chain = Chain(gain=1.0)
    (gradient,) = torch.autograd.grad(
        call_scaled(chain, X).square().sum(), chain.a, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
