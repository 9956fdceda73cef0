"""One step's networks and draws: batches against loops, prediction types, an exact score."""

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from kit import unet_teacher

from threestudio_asd.critics.base import Critic
from threestudio_asd.critics.lora import LoRACritic
from threestudio_asd.distill import (
    ASD,
    SDS,
    VSD,
    CriticSettings,
    DiscreteSchedule,
    NoisyBatch,
    optimal_critic,
    perp_neg,
    rescaled_scale,
)
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.query import Query
from threestudio_asd.guidance.step import DistillationStep
from threestudio_asd.teachers.analytic import GaussianTeacher, gaussian_epsilon
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.unet import FrozenUNet

SCHEDULE = DiscreteSchedule.scaled_linear()
B, K, L, D, SHAPE = 3, 2, 5, 24, (4, 8, 8)


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


def make_teacher(kind="epsilon"):
    return unet_teacher(make_net(kind))


def make_step(method=ASD, teacher="epsilon", critic="epsilon", **cfg):
    """A teacher and a critic on a UNet of its own whose adapter does something."""
    net = make_net(critic, seed=1)
    torch.manual_seed(2)
    lora = LoRACritic(net)
    for name, parameter in lora.named_parameters():
        if name.endswith("up.weight"):
            torch.nn.init.normal_(parameter, std=0.1)
    settings = CriticSettings(cfg.pop("gamma", -0.75), cfg.pop("gamma_target", "epsilon"))
    return DistillationStep(method, make_teacher(teacher), lora, settings, **cfg)


@dataclass
class Inputs:
    """A batch of latents with what is known of it, and draws (t, noise)."""

    latents: torch.Tensor
    text: Conditions
    draw: tuple
    own: tuple | None = None

    def item(self, i):
        one = slice(i, i + 1)
        draw, own = (d and tuple(x[one] for x in d) for d in (self.draw, self.own))
        return Inputs(self.latents[one], self.text.rows(one), draw, own)

    def without_negatives(self):
        return replace(self, text=replace(self.text, negatives=None, negative_weights=None))

    def noisy(self, draw):
        x0 = self.latents.repeat(len(draw[0]) // len(self.latents), 1, 1, 1)
        return NoisyBatch.of(SCHEDULE, x0, *draw)

    def evaluate(self, step, scale=7.5, **options):
        own = self.own and self.noisy(self.own)
        args = (self.latents, self.text, self.noisy(self.draw), scale)
        return step.evaluate(*args, critic_noisy=own, **options)


@pytest.fixture
def inputs():
    """With negatives and cameras, and a draw of the generator."""
    torch.manual_seed(3)
    cond, null, plain = (Condition(torch.randn(B, L, D)) for _ in range(3))
    text = Conditions(
        {"cond": cond, "null": null},
        critic=plain,
        negatives=Condition(torch.randn(B * K, L, D)),
        negative_weights=torch.tensor([[-1.0, -0.5], [0.0, -2.0], [0.0, 0.0]]),
    )
    draw = torch.tensor([50, 500, 950]), torch.randn(B, *SHAPE)
    latents = torch.randn(B, *SHAPE)
    return Inputs(latents, text.with_camera(torch.randn(B, 4, 4)), draw)


def agree(got, expected):
    """Up to 1e-5 of the largest entry: the batch's size changes the order of sums."""
    return (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("gamma_target", ["epsilon", "official"])
@pytest.mark.parametrize("own_draw", [False, True])
def test_a_perp_neg_batch_is_a_loop_over_its_items(inputs, gamma_target, own_draw):
    step = make_step(gamma_target=gamma_target)
    other = (torch.tensor([900, 10, 400]), torch.randn(B, *SHAPE)) if own_draw else None
    inputs = replace(inputs, own=other)
    batch = inputs.evaluate(step)
    singles = [inputs.item(i).evaluate(step) for i in range(B)]
    assert agree(batch.grad, torch.cat([single.grad for single in singles]))
    for name, term in batch.critic_terms.items():
        mean = torch.stack([single.critic_terms[name] for single in singles]).mean()
        torch.testing.assert_close(term, mean)


def test_negatives_of_weight_zero_change_nothing(inputs):
    step = make_step()
    last = inputs.item(B - 1)
    assert agree(last.evaluate(step).grad, last.without_negatives().evaluate(step).grad)


@pytest.mark.parametrize("perp_neg", [False, True])
def test_independent_draws_are_two_shared_evaluations(inputs, perp_neg):
    """The generator's half comes from one draw, the critic's from the other."""
    step, inputs = make_step(), inputs if perp_neg else inputs.without_negatives()
    other = torch.tensor([1, 999, 333]), torch.randn(B, *SHAPE)
    both = replace(inputs, own=other).evaluate(step)
    mine, critics = inputs.evaluate(step), replace(inputs, draw=other).evaluate(step)
    assert agree(both.grad, mine.grad)
    for name, term in both.critic_terms.items():
        torch.testing.assert_close(term, critics.critic_terms[name])


@pytest.mark.parametrize("perp_neg", [False, True])
def test_several_draws_of_the_critic_average(inputs, perp_neg):
    step, inputs = make_step(), inputs if perp_neg else inputs.without_negatives()
    draws = [(torch.randint(1000, (B,)), torch.randn(B, *SHAPE)) for _ in range(3)]
    joined = tuple(torch.cat(column) for column in zip(*draws, strict=True))
    together = replace(inputs, own=joined).evaluate(step).critic_terms
    apart = [replace(inputs, own=d).evaluate(step).critic_terms for d in draws]
    for name, term in together.items():
        torch.testing.assert_close(term, torch.stack([a[name] for a in apart]).mean())


KINDS = ("epsilon", "v_prediction")


@pytest.mark.parametrize(("teacher", "critic"), itertools.product(KINDS, KINDS))
def test_prediction_types_do_not_change_the_gradient(inputs, teacher, critic):
    expected = inputs.evaluate(make_step()).grad
    assert agree(inputs.evaluate(make_step(teacher=teacher, critic=critic)).grad, expected)


def test_a_v_critics_loss_is_the_epsilon_critics_over_abar(inputs):
    inputs = replace(inputs, draw=(torch.full((B,), 500), inputs.draw[1]))
    epsilon, v = (inputs.evaluate(make_step(critic=kind)).critic_terms for kind in KINDS)
    for name in ("denoise", "repel"):
        torch.testing.assert_close(v[name] * SCHEDULE.alphas_cumprod[500], epsilon[name])


def test_the_critics_guidance_extrapolates_from_no_camera(inputs):
    inputs, scale = inputs.without_negatives(), 2.0
    step = make_step(critic_scale=scale)
    x_t, told = inputs.noisy(inputs.draw).x_t, inputs.text.critic
    with torch.no_grad():
        given, none = (
            step.critic.epsilon(x_t, inputs.draw[0], condition)
            for condition in (told, replace(told, camera=None))
        )
    found = inputs.evaluate(step).predictions["critic"]
    assert agree(found, none + scale * (given - none))


def test_hiding_the_camera_concerns_the_critics_training_only(inputs):
    step = make_step()
    shown, hidden = inputs.evaluate(step), inputs.evaluate(step, hide_camera=True)
    assert agree(hidden.predictions["critic"], shown.predictions["critic"])
    blind = replace(inputs, text=inputs.text.with_camera(torch.zeros(B, 4, 4))).evaluate(step)
    torch.testing.assert_close(hidden.critic_terms, blind.critic_terms)


class ExactCritic:
    """The minimiser of ASD's loss on renders x_0 ~ N(mean, std^2 I)."""

    prediction_type = "epsilon"

    def __init__(self, teacher, cond, mean, std, gamma):
        self.schedule, self.teacher, self.cond = teacher.schedule, teacher, cond
        self.mean, self.variance, self.gamma = mean, torch.full((1, 1, 1, 1), std**2), gamma

    def predict(self, x_t, t, condition):
        eps_bar = gaussian_epsilon(self.schedule, x_t, t, self.mean, self.variance)
        return optimal_critic(eps_bar, self.teacher.epsilon(x_t, t, self.cond), self.gamma)

    def draw_camera_dropout(self):
        return False


@pytest.mark.parametrize("gamma", [-0.75, -0.5])
def test_with_exact_scores_asd_is_vsd_at_the_rescaled_scale(gamma):
    """Through the whole step: teacher, critic and method."""
    torch.manual_seed(4)
    means = torch.randn(3, 3, 4, 4)
    teacher = GaussianTeacher({"": (means[0], 1.0), "y": (means[1], 0.5)}, SCHEDULE)
    null, cond = (teacher.embed_text([word] * B) for word in ("", "y"))
    inputs = Inputs(
        means[2] + 0.2 * torch.randn(B, 3, 4, 4),
        Conditions({"cond": cond, "null": null}, critic=cond),
        (torch.tensor([100, 500, 900]), torch.randn(B, 3, 4, 4)),
    )
    asd, vsd = (
        DistillationStep(
            method, teacher, ExactCritic(teacher, cond, means[2:], 0.2, g), CriticSettings(g)
        )
        for method, g in ((ASD, gamma), (VSD, 0.0))
    )
    assert isinstance(asd.critic, Critic)
    assert agree(
        (1 + gamma) * inputs.evaluate(asd, 7.5).grad,
        inputs.evaluate(vsd, rescaled_scale(7.5, gamma)).grad,
    )


def test_sds_needs_no_critic_and_leaves_it_alone(inputs):
    found = inputs.evaluate(DistillationStep(SDS, make_teacher()))
    assert "critic" not in found.predictions and found.critic_terms == {}


def test_a_missing_or_unfitting_critic_is_refused():
    with pytest.raises(UserError, match="'asd' needs a critic"):
        DistillationStep(ASD, make_teacher())
    other = FrozenUNet(make_net().unet, DiscreteSchedule.scaled_linear(beta_end=0.02))
    with pytest.raises(UserError, match="another noise schedule"):
        DistillationStep(ASD, make_teacher(), LoRACritic(other))
    shorter = FrozenUNet(make_net().unet, DiscreteSchedule.scaled_linear(num_timesteps=500))
    with pytest.raises(UserError, match="another noise schedule"):
        DistillationStep(ASD, make_teacher(), LoRACritic(shorter))


@pytest.mark.parametrize("gamma_target", ["epsilon", "official"])
def test_a_step_of_the_critic_alone_has_the_losses_of_a_whole_step(inputs, gamma_target):
    step = make_step(gamma_target=gamma_target)
    inputs = replace(inputs, own=(torch.tensor([1, 700, 300]), torch.randn(B, *SHAPE)))
    whole = inputs.evaluate(step).critic_terms
    alone = step.critic_terms(inputs.noisy(inputs.own), inputs.text)
    assert list(alone) == list(whole) == ["denoise", "repel"]
    assert all(agree(alone[name], whole[name]) for name in whole)


def test_the_official_target_projects_raw_predictions_and_needs_no_null(inputs):
    step = make_step(gamma_target="official")
    text, noisy = inputs.text, inputs.noisy(inputs.draw)
    assert Query(noisy, text, frozenset({"cond"}), raw=True).rows.keys() == {"cond", "negatives"}
    said, negatives = (
        step.teacher.epsilon(noisy.x_t.repeat_interleave(k, 0), noisy.t.repeat_interleave(k), asked)
        for k, asked in ((1, text["cond"]), (K, text.negatives))
    )
    moved = perp_neg(said, negatives.unflatten(0, (B, K)), text.negative_weights, origin=None)
    prediction = step.critic.predict(noisy.x_t, noisy.t, text.critic)
    expected = -0.75 * (prediction - moved).square().mean()
    assert agree(step.critic_terms(noisy, text)["repel"], expected)


def test_rescaling_concerns_the_guided_prediction(inputs):
    inputs = inputs.without_negatives()
    plain, rescaled = (inputs.evaluate(make_step(rescale=phi)) for phi in (0.0, 0.7))
    said = plain.predictions
    target = said["null"] + 7.5 * (said["cond"] - said["null"])
    ratio = said["cond"].std(dim=(1, 2, 3)) / target.std(dim=(1, 2, 3))
    target = target * (0.7 * ratio + 0.3).view(-1, 1, 1, 1)
    w = SCHEDULE.noise(inputs.draw[0])
    assert agree(rescaled.grad, w * (target - said["critic"]))
