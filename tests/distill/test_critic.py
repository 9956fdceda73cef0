"""Critic objectives: trained to their closed forms; settings checked when they are made."""

import warnings

import pytest
import torch
from torch import nn

from threestudio_asd.distill.critic import CRITIC_OBJECTIVES, CriticObjective, optimal_critic
from threestudio_asd.distill.critic_step import (
    CriticSettings,
    CriticStep,
    denoise_target,
    gamma_target,
)
from threestudio_asd.distill.noising import NoisyBatch
from threestudio_asd.distill.prediction_types import PREDICTION_TYPES, stated, to_epsilon
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.distill.schedule import DiscreteSchedule, FlowSchedule
from threestudio_asd.distill.timesteps import TimestepRange
from threestudio_asd.errors import NotRegisteredError, UserError
from threestudio_asd.teachers.analytic import GaussianTeacher, gaussian_epsilon

SCHEDULE = DiscreteSchedule.scaled_linear()
SHAPE = (3, 2, 2)
RENDER_STD = 0.6


def critic_step(prediction, kind, noisy, schedule=SCHEDULE, **said):
    return CriticStep(prediction, kind, schedule, Predictions(noisy, said))


class SmallCritic(nn.Module):
    """a(t) x_t + b(t), with a and b from a small network: what a Gaussian's optimum looks like."""

    def __init__(self):
        super().__init__()
        outputs = 1 + torch.Size(SHAPE).numel()
        self.net = nn.Sequential(
            nn.Linear(5, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, outputs)
        )

    def forward(self, x_t, t):
        abar = SCHEDULE.alphas_cumprod[t]
        snr = (abar / (1 - abar)).log() / 4
        features = [t / 500 - 1, snr, snr.cos(), (2 * snr).sin(), (1 - abar).sqrt()]
        out = self.net(torch.stack(features, dim=1))
        return out[:, :1, None, None] * x_t + out[:, 1:].view(-1, *SHAPE)


class World:
    """Gaussian renders under a Gaussian teacher, for which eps_bar and e_y are known."""

    def __init__(self):
        self.render = torch.randn(1, *SHAPE)
        target = torch.randn(SHAPE)
        self.teacher = GaussianTeacher(
            {"": (torch.zeros(SHAPE), 1.0), "y": (target, 1.0)}, SCHEDULE
        )

    def draw(self, t):
        """Antithetic pairs of renders and noises; t is repeated."""
        deviation = RENDER_STD * torch.randn(len(t), *SHAPE)
        noise = torch.randn(len(t), *SHAPE)
        x0 = self.render + torch.cat([deviation, -deviation])
        noise, t = torch.cat([noise, -noise]), t.repeat(2)
        return NoisyBatch.of(SCHEDULE, x0, t, noise)

    def e_y(self, x_t, t):
        return self.teacher.epsilon(x_t, t, self.teacher.embed_text(["y"]).repeat(len(t)))

    def eps_bar(self, x_t, t):
        variance = torch.full((1, 1, 1, 1), RENDER_STD**2)
        return gaussian_epsilon(SCHEDULE, x_t, t, self.render, variance)


def train(world, prediction_type, settings, steps=800, batch=128, lr=2e-2):
    critic = SmallCritic()
    optimiser = torch.optim.Adam(critic.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
    objective, steps_range = CRITIC_OBJECTIVES.get("asd"), TimestepRange(20, 980)
    for _ in range(steps):
        noisy = world.draw(steps_range.sample(batch))
        e_y = world.e_y(noisy.x_t, noisy.t)
        step = critic_step(critic(noisy.x_t, noisy.t), prediction_type, noisy, cond=e_y)
        optimiser.zero_grad()
        sum(objective.terms(step, settings).values()).backward()
        optimiser.step()
        schedule.step()
    return critic


@torch.no_grad()
def worst_error(world, critic, prediction_type, gamma, pull):
    """Largest relative L2 distance to the closed form over t in [100, 900]."""
    errors = []
    for step in range(100, 901, 50):
        noisy = world.draw(torch.full((1000,), step))
        x_t, t = noisy.x_t, noisy.t
        factor = SCHEDULE.signal(t) if pull == "abar" else 1.0
        expected = optimal_critic(world.eps_bar(x_t, t), world.e_y(x_t, t), gamma, factor)
        learnt = to_epsilon(SCHEDULE, critic(x_t, t), x_t, t, prediction_type)
        errors.append(((learnt - expected).norm() / expected.norm()).item())
    return max(errors)


@pytest.mark.parametrize(
    ("gamma", "prediction_type", "gamma_target", "pull", "other_pull"),
    [
        (-0.25, "epsilon", "epsilon", 1, None),
        (-0.5, "epsilon", "epsilon", 1, "abar"),
        pytest.param(*(-0.5, "v_prediction", "epsilon", 1, "abar"), marks=pytest.mark.slow),
        (-0.5, "v_prediction", "official", "abar", 1),
    ],
)
def test_a_trained_critic_reaches_its_closed_form(
    gamma, prediction_type, gamma_target, pull, other_pull
):
    world = World()
    critic = train(world, prediction_type, CriticSettings(gamma, gamma_target))
    assert worst_error(world, critic, prediction_type, gamma, pull) < 0.02
    # The check tells the two gamma targets, and gamma from none, apart.
    if other_pull is not None:
        assert worst_error(world, critic, prediction_type, gamma, other_pull) > 0.1
    assert worst_error(world, critic, prediction_type, 0.0, 1) > 0.1


@pytest.mark.parametrize(
    ("schedule", "t"), [(SCHEDULE, 600), (FlowSchedule(), 0.6)], ids=["discrete", "flow"]
)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("gamma", [-0.75, 0.5])
def test_the_closed_form_is_where_the_expected_loss_is_flat(prediction_type, gamma, schedule, t):
    """At one x_t: eps takes two values, so the expectation is a mean over a batch of two."""
    t = torch.tensor([t, t])
    x_t = torch.randn(1, *SHAPE).expand(2, *SHAPE)
    noise = torch.randn(2, *SHAPE)

    def x0_of(epsilon):
        return (x_t - schedule.sigma(t, x_t) * epsilon) / schedule.alpha(t, x_t)

    e_y = torch.randn(1, *SHAPE).expand(2, *SHAPE)
    star = optimal_critic(noise.mean(0, keepdim=True), e_y[:1], gamma).expand(2, *SHAPE)
    best = stated(schedule, x0_of(star), star, t, prediction_type)
    prediction = best[:1].clone().requires_grad_()
    noisy = NoisyBatch(x0_of(noise), x_t, t, noise)
    step = critic_step(prediction.expand(2, *SHAPE), prediction_type, noisy, schedule, cond=e_y)
    terms = CRITIC_OBJECTIVES.get("asd").terms(step, CriticSettings(gamma))
    sum(terms.values()).backward()
    torch.testing.assert_close(prediction.grad, torch.zeros(1, *SHAPE), rtol=0, atol=1e-5)
    assert set(terms) == {"denoise", "repel"}


@pytest.fixture
def noisy():
    x0, noise = torch.randn(2, 2, *SHAPE)
    return NoisyBatch.of(SCHEDULE, x0, torch.tensor([300, 900]), noise)


def test_what_was_drawn_in_the_critics_space(noisy):
    x0, noise, t = noisy.x0, noisy.noise, noisy.t
    alpha, sigma = SCHEDULE.alpha(t, x0), SCHEDULE.sigma(t, x0)
    expected = {
        "epsilon": noise,
        "v_prediction": alpha * noise - sigma * x0,
        "sample": x0,
        "flow_prediction": noise - x0,
    }
    assert expected.keys() == PREDICTION_TYPES.keys()
    for kind, target in expected.items():
        torch.testing.assert_close(denoise_target(critic_step(x0, kind, noisy)), target)


def test_gamma_targets_of_a_v_critic(noisy):
    e_y, prediction = torch.randn(2, 2, *SHAPE)
    x0, x_t, t = noisy.x0, noisy.x_t, noisy.t
    alpha, sigma = SCHEDULE.alpha(t, x0), SCHEDULE.sigma(t, x0)
    step = critic_step(prediction, "v_prediction", noisy, cond=e_y)
    consistent, official = (gamma_target(step, kind) for kind in ("epsilon", "official"))
    torch.testing.assert_close(sigma * x_t + alpha * consistent, e_y)
    torch.testing.assert_close(official, alpha * e_y - sigma * x0)
    for kind in ("epsilon", "official"):
        same = gamma_target(critic_step(prediction, "epsilon", noisy, cond=e_y), kind)
        assert torch.equal(same, e_y)
    with pytest.raises(UserError, match="predicts x_0"):
        gamma_target(critic_step(prediction, "sample", noisy, cond=e_y), "official")


def test_an_objective_reads_what_it_declared_and_nothing_else(noisy):
    prediction, asd = noisy.noise, CRITIC_OBJECTIVES.get("asd")
    with pytest.raises(UserError, match="no prediction 'cond' for this step, which declares none"):
        gamma_target(critic_step(prediction, "epsilon", noisy), "epsilon")
    with pytest.raises(UserError, match="no prediction 'cond'"):
        asd.terms(critic_step(prediction, "epsilon", noisy), CriticSettings(-0.5))
    peeping = CriticObjective(
        "peeping",
        lambda step, settings: {"seen": step.predictions["null"].mean()},
        needs=lambda settings: ("cond",) if settings.gamma else ("cond", "null"),
    )
    step = critic_step(prediction, "epsilon", noisy, cond=prediction, null=2 * prediction)
    (seen,) = peeping.terms(step, CriticSettings()).values()
    assert torch.equal(seen, 2 * prediction.mean())
    message = (
        r"no prediction 'null' for the critic objective 'peeping', which declares cond; .*need"
    )
    with pytest.raises(UserError, match=message):
        peeping.terms(step, CriticSettings(-0.5))


def test_only_the_prediction_gets_a_gradient():
    x0, noise, e_y, prediction = (torch.randn(2, *SHAPE, requires_grad=True) for _ in range(4))
    noisy = NoisyBatch.of(SCHEDULE, x0, torch.tensor([300, 900]), noise)
    step = critic_step(prediction, "v_prediction", noisy, cond=e_y)
    sum(CRITIC_OBJECTIVES.get("asd").terms(step, CriticSettings(-0.5)).values()).backward()
    assert prediction.grad is not None
    assert x0.grad is None and noise.grad is None and e_y.grad is None


def test_gamma_is_checked_when_settings_are_made():
    for bad in (-1.01, -2.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="gamma must be at least -1"):
            CriticSettings(gamma=bad)
    with pytest.warns(UserWarning, match="no minimum"):
        CriticSettings(gamma=-1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for good in (-0.999, -0.75, 0.0, 3.0):
            CriticSettings(gamma=good)
    with pytest.raises(UserError, match="'v'; choose one of: epsilon, official"):
        CriticSettings(gamma=-0.5, gamma_target="v")
    with pytest.raises(UserError, match="no minimum"):
        optimal_critic(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), -1.0)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(NotRegisteredError, match="'wgan'; choose one of: asd, denoise"):
        CRITIC_OBJECTIVES.get("wgan")
    x = torch.zeros(1, *SHAPE)
    with pytest.raises(UserError, match="'flow'; choose one of: epsilon"):
        critic_step(x, "flow", NoisyBatch(x, x, torch.tensor([1]), x))
