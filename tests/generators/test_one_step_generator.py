"""A generator of one step: its formula, its gradients, and the levels it refuses."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.teachers import recorded
from threestudio_asd.teachers.analytic import GaussianTeacher, stating
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.one_step import OneStepGenerator
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny.random_sd import random_unet

SCHEDULE = DiscreteSchedule.scaled_linear()
MEAN, STD = torch.linspace(-1, 1, 48, dtype=torch.float64).view(3, 4, 4), 0.5


class Exact(nn.Module):
    """A network of one Gaussian, called as a UNet is."""

    def __init__(self, kind):
        super().__init__()
        component = {"": (MEAN, STD)}
        self.said = stating(GaussianTeacher(component, SCHEDULE), kind)
        self.dtype_of = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x_t, t, encoder_hidden_states):
        said = self.said.function(x_t, t, Condition(encoder_hidden_states))
        return SimpleNamespace(sample=said)


def levels(t):
    abar = SCHEDULE.alphas_cumprod[t]
    return abar.sqrt().double(), (1 - abar).sqrt().double()


def posterior_mean(x_t, t):
    """E[x_0 | x_t] of x_0 ~ N(m, v)."""
    alpha, sigma = levels(t)
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    return MEAN + gain * (x_t - alpha * MEAN)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("init_timestep", [625, 999])
def test_one_step_is_the_x0_of_pure_noise(kind, init_timestep):
    generator = OneStepGenerator(Exact(kind), SCHEDULE, init_timestep, kind)
    z, text = torch.randn(5, 3, 4, 4, dtype=torch.float64), torch.ones(5, 1, 1)
    expected = posterior_mean(levels(init_timestep)[1] * z, init_timestep)
    torch.testing.assert_close(generator.generate(z, text), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "times"),
    [(1, [625]), (2, [625, 312]), (3, [625, 416, 208]), (4, [625, 468, 312, 156])],
)
def test_further_steps_noise_the_answer_again(steps, times):
    generator = OneStepGenerator(Exact("v_prediction"), SCHEDULE, 625, "v_prediction")
    assert generator.timesteps(steps) == times
    z, text = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.ones(2, 1, 1)
    draws = torch.Generator().manual_seed(3)
    x = torch.zeros_like(z)
    for i, t in enumerate(times):
        noise = torch.randn(z.shape, generator=draws, dtype=z.dtype) if i else z
        alpha, sigma = levels(t)
        x = posterior_mean(alpha * x + sigma * noise, t)
    found = generator.generate(z, text, steps, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)


class Small(nn.Module):
    """Few weights in double precision; the text and the time matter."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(2, 2, 3, padding=1).double()

    def forward(self, x_t, t, encoder_hidden_states):
        shift = encoder_hidden_states.mean(dim=(1, 2)) + t / 1000
        return SimpleNamespace(sample=self.convolution(x_t).tanh() + shift.view(-1, 1, 1, 1))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2])
def test_gradients_reach_weights_noise_and_text(kind, steps):
    network = Small()
    names, weights = zip(*network.named_parameters(), strict=True)

    def drawn(z, text, *weights):
        def called(*args, **kwargs):
            own = dict(zip(names, weights, strict=True))
            return torch.func.functional_call(network, own, args, kwargs)

        # A module again, which the generator asks for its precision.
        unet = nn.Module()
        unet.precision, unet.forward = network.convolution.weight, called
        generator = OneStepGenerator(unet, SCHEDULE, 625, kind)
        return generator.generate(z, text, steps, torch.Generator().manual_seed(0))

    z = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    text = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(drawn, (z, text, *weights))


def test_a_recorded_generator_follows_its_weights_to_the_bit(monkeypatch):
    found = []
    for after in (10**6, 2):
        monkeypatch.setattr(recorded, "AFTER", after)
        torch.manual_seed(0)
        generator = OneStepGenerator(random_unet(text_width=24), SCHEDULE)
        noise, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 24)
        optimizer = torch.optim.SGD(generator.unet.parameters(), lr=0.01)
        seen = []
        for _ in range(4):
            optimizer.zero_grad()
            x = generator.generate(noise, text)
            x.square().mean().backward()
            seen.append(x.detach())
            optimizer.step()
        found.append(seen)
        assert bool(generator._recorder._recordings) == (after == 2)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert not torch.equal(found[0][2], found[0][3])


def test_half_precision_passes_leave_weights_and_gradients_in_single():
    torch.manual_seed(0)
    unet = random_unet()
    single, half = (OneStepGenerator(unet, SCHEDULE, compute=c) for c in (None, torch.bfloat16))
    z, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 24)
    found = half.generate(z, text)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, single.generate(z, text), rtol=0.1, atol=0.1)
    assert not torch.equal(found, single.generate(z, text))
    found.square().mean().backward()
    assert unet.conv_in.weight.grad.dtype == torch.float32 and unet.conv_in.weight.grad.any()


def pure_noise_at_the_end():
    abar = SCHEDULE.alphas_cumprod.clone()
    abar[-1] = 0.0
    return DiscreteSchedule(abar)


def test_a_v_network_draws_from_pure_noise():
    class Says(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.tensor(0.25))

        def forward(self, x_t, t, encoder_hidden_states):
            return SimpleNamespace(sample=self.value.expand_as(x_t))

    generator = OneStepGenerator(Says(), pure_noise_at_the_end(), 999, "v_prediction")
    # alpha = 0, sigma = 1: v = -x_0.
    found = generator.generate(torch.randn(1, 4, 2, 2), torch.zeros(1, 1, 1))
    torch.testing.assert_close(found, torch.full((1, 4, 2, 2), -0.25))


@pytest.mark.parametrize(
    ("schedule", "init_timestep", "kind", "message"),
    [
        (SCHEDULE, 0, "epsilon", r"init_timestep=0 is no level .* choose one from 1 to 999"),
        (SCHEDULE, 1000, "v_prediction", r"init_timestep=1000 is no level"),
        (
            pure_noise_at_the_end(),
            999,
            "epsilon",
            r"pure noise .* choose at most 998, or a teacher",
        ),
        (SCHEDULE, 625, "flow", r"Unknown prediction type 'flow'"),
    ],
)
def test_a_level_that_says_nothing_is_refused(schedule, init_timestep, kind, message):
    with pytest.raises(UserError, match=message):
        OneStepGenerator(Exact("epsilon"), schedule, init_timestep, kind)


@pytest.mark.parametrize("steps", [0, 626])
def test_steps_that_there_are_not_are_refused(steps):
    with pytest.raises(UserError, match=rf"steps={steps}: at least 1, and at most 625"):
        OneStepGenerator(Exact("epsilon"), SCHEDULE).timesteps(steps)


def test_a_teacher_of_several_views_is_refused():
    net = FrozenUNet(random_unet(), SCHEDULE, views_at_once=4)
    with pytest.raises(UserError, match="sees 4 views at once: choose a teacher of single"):
        OneStepGenerator.of(net)
