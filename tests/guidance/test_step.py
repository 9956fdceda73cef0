"""One step's networks and draws: batches against loops, prediction types, an exact score."""

import itertools
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

from threestudio_asd.critics.lora import LoRACritic
from threestudio_asd.distill import (
    ASD,
    SDS,
    VSD,
    CriticSettings,
    NoiseSchedule,
    optimal_critic,
    rescaled_scale,
    weight,
)
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.step import Critic, DistillationStep, Draw
from threestudio_asd.teachers.analytic import GaussianTeacher, gaussian_epsilon
from threestudio_asd.teachers.base import Teacher
from threestudio_asd.teachers.unet import FrozenUNet

SCHEDULE = NoiseSchedule.scaled_linear()
B, K, L, D, SHAPE = 3, 2, 5, 24, (4, 8, 8)


class UNetTeacher(Teacher):
    """A UNet without autoencoder or text encoder: all that a step asks of a teacher."""

    def __init__(self, net):
        self.net, self.schedule, self.prediction_type = net, net.schedule, net.prediction_type

    def epsilon(self, x_t, t, condition):
        return self.net.epsilon(x_t, t, condition)

    encode = decode = embed_text = None


class VelocityUNet(UNet2DConditionModel):
    """The same network, but it states v = (eps - sigma x_t) / alpha."""

    def forward(self, sample, timestep, *args, **kwargs):
        epsilon = super().forward(sample, timestep, *args, **kwargs).sample
        alpha, sigma = SCHEDULE.alpha(timestep, sample), SCHEDULE.sigma(timestep, sample)
        return UNet2DConditionOutput(sample=(epsilon - sigma * sample) / alpha)


def make_net(kind="epsilon", seed=0):
    torch.manual_seed(seed)
    unet = {"epsilon": UNet2DConditionModel, "v_prediction": VelocityUNet}[kind](
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=D,
        attention_head_dim=4,
    )
    return FrozenUNet(unet, SCHEDULE, kind)


def make_step(method=ASD, teacher="epsilon", critic="epsilon", **cfg):
    """A teacher and a critic on a UNet of its own whose adapter does something."""
    net = make_net(critic, seed=1)
    torch.manual_seed(2)
    lora = LoRACritic(net)
    for name, parameter in lora.named_parameters():
        if name.endswith("up.weight"):
            torch.nn.init.normal_(parameter, std=0.1)
    settings = CriticSettings(cfg.pop("gamma", -0.75), cfg.pop("gamma_target", "epsilon"))
    return DistillationStep(method, UNetTeacher(make_net(teacher)), lora, settings, **cfg)


@pytest.fixture
def inputs():
    """latents, text with negatives, camera, draw of the generator."""
    torch.manual_seed(3)
    text = Conditions(
        cond=torch.randn(B, L, D),
        null=torch.randn(B, L, D),
        plain=torch.randn(B, L, D),
        negatives=torch.randn(B, K, L, D),
        negative_weights=torch.tensor([[-1.0, -0.5], [0.0, -2.0], [0.0, 0.0]]),
    )
    draw = Draw(torch.tensor([50, 500, 950]), torch.randn(B, *SHAPE))
    return torch.randn(B, *SHAPE), text, torch.randn(B, 4, 4), draw


def item(inputs, i):
    latents, text, camera, draw = inputs
    one = slice(i, i + 1)
    text = Conditions(**{name: x if x is None else x[one] for name, x in vars(text).items()})
    return latents[one], text, camera[one], Draw(draw.t[one], draw.noise[one])


def gradient(step, result, scale=7.5):
    w = weight("sds", SCHEDULE, result.scores.t, result.scores.x_t)
    return step.method.gradient(result.scores, scale, w)


def agree(got, expected):
    """Up to 1e-5 of the largest entry: the batch's size changes the order of sums."""
    return (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def without_negatives(inputs):
    latents, text, *rest = inputs
    return latents, replace(text, negatives=None, negative_weights=None), *rest


@pytest.mark.parametrize("gamma_target", ["epsilon", "official"])
@pytest.mark.parametrize("own_draw", [False, True])
def test_a_perp_neg_batch_is_a_loop_over_its_items(inputs, gamma_target, own_draw):
    step = make_step(gamma_target=gamma_target)
    other = Draw(torch.tensor([900, 10, 400]), torch.randn(B, *SHAPE)) if own_draw else None
    batch = step.evaluate(*inputs, other)
    singles = [
        step.evaluate(
            *item(inputs, i),
            Draw(other.t[i : i + 1], other.noise[i : i + 1]) if own_draw else None,
        )
        for i in range(B)
    ]
    assert agree(gradient(step, batch), torch.cat([gradient(step, s) for s in singles]))
    for name, term in batch.critic_terms.items():
        mean = torch.stack([single.critic_terms[name] for single in singles]).mean()
        torch.testing.assert_close(term, mean)


def test_negatives_of_weight_zero_change_nothing(inputs):
    step = make_step()
    last = item(inputs, B - 1)
    plain = step.evaluate(*without_negatives(last))
    assert agree(gradient(step, step.evaluate(*last)), gradient(step, plain))


@pytest.mark.parametrize("perp_neg", [False, True])
def test_independent_draws_are_two_shared_evaluations(inputs, perp_neg):
    """The generator's half comes from one draw, the critic's from the other."""
    step, inputs = make_step(), inputs if perp_neg else without_negatives(inputs)
    other = Draw(torch.tensor([1, 999, 333]), torch.randn(B, *SHAPE))
    both = step.evaluate(*inputs, other)
    mine, critics = step.evaluate(*inputs), step.evaluate(*inputs[:3], other)
    assert agree(gradient(step, both), gradient(step, mine))
    for name, term in both.critic_terms.items():
        torch.testing.assert_close(term, critics.critic_terms[name])


@pytest.mark.parametrize("perp_neg", [False, True])
def test_several_draws_of_the_critic_average(inputs, perp_neg):
    step, inputs = make_step(), inputs if perp_neg else without_negatives(inputs)
    draws = [Draw(torch.randint(1000, (B,)), torch.randn(B, *SHAPE)) for _ in range(3)]
    joined = Draw(torch.cat([d.t for d in draws]), torch.cat([d.noise for d in draws]))
    together = step.evaluate(*inputs, joined).critic_terms
    apart = [step.evaluate(*inputs, d).critic_terms for d in draws]
    for name, term in together.items():
        torch.testing.assert_close(term, torch.stack([a[name] for a in apart]).mean())


KINDS = ("epsilon", "v_prediction")


@pytest.mark.parametrize(("teacher", "critic"), itertools.product(KINDS, KINDS))
def test_prediction_types_do_not_change_the_gradient(inputs, teacher, critic):
    reference = make_step()
    expected = gradient(reference, reference.evaluate(*inputs))
    step = make_step(teacher=teacher, critic=critic)
    got = gradient(step, step.evaluate(*inputs))
    assert agree(got, expected)


def test_a_v_critics_loss_is_the_epsilon_critics_over_abar(inputs):
    t = torch.full((B,), 500)
    inputs = (*inputs[:3], Draw(t, inputs[3].noise))
    epsilon, v = (make_step(critic=kind).evaluate(*inputs).critic_terms for kind in KINDS)
    for name in ("denoise", "repel"):
        torch.testing.assert_close(v[name] * SCHEDULE.alphas_cumprod[500], epsilon[name])


def test_the_critics_guidance_extrapolates_from_no_camera(inputs):
    inputs, scale = without_negatives(inputs), 2.0
    step = make_step(critic_scale=scale)
    critic, (latents, text, camera, draw) = step.critic, inputs
    x_t = SCHEDULE.add_noise(latents, draw.noise, draw.t)
    with torch.no_grad():
        given, none = (critic.epsilon(x_t, draw.t, text.plain, c) for c in (camera, None))
    assert agree(step.evaluate(*inputs).scores.critic, none + scale * (given - none))


def test_hiding_the_camera_concerns_the_critics_training_only(inputs):
    step = make_step()
    shown, hidden = step.evaluate(*inputs), step.evaluate(*inputs, hide_camera=True)
    assert agree(hidden.scores.critic, shown.scores.critic)
    latents, text, _, draw = inputs
    blind = step.evaluate(latents, text, torch.zeros(B, 4, 4), draw)
    torch.testing.assert_close(hidden.critic_terms, blind.critic_terms)


class ExactCritic:
    """The minimiser of ASD's loss on renders x_0 ~ N(mean, std^2 I)."""

    prediction_type = "epsilon"

    def __init__(self, teacher, cond, mean, std, gamma):
        self.schedule, self.teacher, self.cond = teacher.schedule, teacher, cond
        self.mean, self.variance, self.gamma = mean, torch.full((1, 1, 1, 1), std**2), gamma

    def predict(self, x_t, t, condition, camera=None):
        eps_bar = gaussian_epsilon(SCHEDULE, x_t, t, self.mean, self.variance)
        return optimal_critic(eps_bar, self.teacher.epsilon(x_t, t, self.cond), self.gamma)


@pytest.mark.parametrize("gamma", [-0.75, -0.5])
def test_with_exact_scores_asd_is_vsd_at_the_rescaled_scale(gamma):
    """Through the whole step: teacher, critic and method."""
    torch.manual_seed(4)
    means = torch.randn(3, 3, 4, 4)
    teacher = GaussianTeacher({"": (means[0], 1.0), "y": (means[1], 0.5)}, SCHEDULE)
    null, cond = (row.expand(B, -1, -1) for row in teacher.embed_text(["", "y"]))
    inputs = (
        means[2] + 0.2 * torch.randn(B, 3, 4, 4),
        Conditions(cond, null, plain=cond),
        None,
        Draw(torch.tensor([100, 500, 900]), torch.randn(B, 3, 4, 4)),
    )
    asd, vsd = (
        DistillationStep(
            method, teacher, ExactCritic(teacher, cond, means[2:], 0.2, g), CriticSettings(g)
        )
        for method, g in ((ASD, gamma), (VSD, 0.0))
    )
    assert isinstance(asd.critic, Critic)
    assert agree(
        (1 + gamma) * gradient(asd, asd.evaluate(*inputs), 7.5),
        gradient(vsd, vsd.evaluate(*inputs), rescaled_scale(7.5, gamma)),
    )


def test_sds_needs_no_critic_and_leaves_it_alone(inputs):
    result = DistillationStep(SDS, UNetTeacher(make_net())).evaluate(*inputs)
    assert result.scores.critic is None and result.critic_terms == {}


def test_a_missing_or_unfitting_critic_is_refused():
    with pytest.raises(UserError, match="'asd' needs a critic"):
        DistillationStep(ASD, UNetTeacher(make_net()))
    other = FrozenUNet(make_net().unet, NoiseSchedule.scaled_linear(beta_end=0.02))
    with pytest.raises(UserError, match="another noise schedule"):
        DistillationStep(ASD, UNetTeacher(make_net()), LoRACritic(other))
    shorter = FrozenUNet(make_net().unet, NoiseSchedule.scaled_linear(num_timesteps=500))
    with pytest.raises(UserError, match="another noise schedule"):
        DistillationStep(ASD, UNetTeacher(make_net()), LoRACritic(shorter))


@pytest.mark.parametrize("gamma_target", ["epsilon", "official"])
def test_a_step_of_the_critic_alone_has_the_losses_of_a_whole_step(inputs, gamma_target):
    latents, text, camera, draw = inputs
    step = make_step(gamma_target=gamma_target)
    own = Draw(torch.tensor([1, 700, 300]), torch.randn(B, *SHAPE))
    whole = step.evaluate(latents, text, camera, draw, own).critic_terms
    alone = step.critic_terms(latents, text, camera, own)
    assert list(alone) == list(whole) == ["denoise", "repel"]
    assert all(agree(alone[name], whole[name]) for name in whole)
