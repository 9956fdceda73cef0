"""ASD's pair: what it becomes with critics that are known, with exact scores."""

from dataclasses import replace

import pytest
import torch
from exact_rows import (
    EXACT,
    SCHEDULE,
    SHAPE,
    LinearCritic,
    levels_of,
    normal,
    step_of,
    text_of,
    views_of,
)
from torch import nn

from threestudio_asd.distill.critic import rescaled_scale
from threestudio_asd.distill.critic_step import CriticSettings
from threestudio_asd.distill.methods import METHODS
from threestudio_asd.distill.prediction_types import from_epsilon
from threestudio_asd.distill.predictions import beside
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.step import DistillationStep

B, GAMMA, SCALE = 3, -0.75, 7.5
T = torch.tensor([90, 430, 870])
X0 = normal(B, *SHAPE, seed=4)


class TableCritic(nn.Module):
    """Says what is in its table, whatever it is asked; and remembers what it was told."""

    schedule = SCHEDULE

    def __init__(self, table, prediction_type="epsilon"):
        super().__init__()
        self.table, self.prediction_type = nn.Parameter(table), prediction_type

    def predict(self, x_t, t, condition):
        self.asked = (x_t, t, condition)
        return self.table + 0.0

    def draw_camera_dropout(self):
        return False


def noisy_of(step):
    return step.noisy(X0, T, views_of(B), text_of(B))


def evaluated(step, noisy, scale=SCALE, text=None):
    latents = X0.clone().requires_grad_()
    found = step.evaluate(latents, text_of(B) if text is None else text, noisy, scale)
    return found, torch.autograd.grad(found.loss, latents)[0]


def pair(critic, gamma=GAMMA):
    return DistillationStep(METHODS.get("asd-pair"), EXACT, critic, CriticSettings(gamma))


def test_a_fixed_discriminator_makes_it_dds_to_the_bit():
    dds = step_of("dds")
    noisy = noisy_of(dds)
    expected, loss = evaluated(dds, noisy)
    assert expected.grad.abs().max() > 0.1
    for said in (noisy.noise, normal(B, *SHAPE, seed=9)):  # SDS's, and any other
        found, own = evaluated(pair(TableCritic(said.repeat(2, 1, 1, 1))), noisy)
        torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=1e-13)
        torch.testing.assert_close(own, loss, rtol=0, atol=1e-13)


def test_written_out():
    step, text = pair(LinearCritic()), text_of(B)
    noisy = noisy_of(step)
    views = views_of(B)
    found, loss = evaluated(step, noisy)
    alpha, sigma = levels_of(T)
    there = alpha * views.reference + sigma * noisy.noise
    dds, _ = evaluated(step_of("dds"), noisy)
    expected = dds.grad - (noisy.x_t - there) / 2  # of a critic that says x_t / 2
    torch.testing.assert_close(found.grad, expected)
    torch.testing.assert_close(loss, expected / 16)
    error, repel = 0.0, 0.0
    for x_t, prompt in ((noisy.x_t, "cond"), (there, "reference_cond")):
        said = x_t / 2
        error = error + (said - noisy.noise).square().mean() / 2
        repel = repel + (said - EXACT.epsilon(x_t, T, text[prompt])).square().mean() / 2
    assert found.critic_terms["denoise"].item() == pytest.approx(error.item(), rel=1e-5)
    assert found.critic_terms["repel"].item() == pytest.approx(GAMMA * repel.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [0.0, -0.5, -0.75])
def test_the_best_critic_of_single_pictures_makes_it_dds_at_another_scale(kind, gamma):
    """The loss is quadratic in the table: one step of descent of the right size is its minimum."""
    step = pair(TableCritic(torch.zeros(2 * B, *SHAPE).double(), kind), gamma)
    noisy = noisy_of(step)
    found, _ = evaluated(step, noisy)
    table = step.critic.table
    (slope,) = torch.autograd.grad(sum(found.critic_terms.values()), table)
    assert slope[:B].abs().max() > 1e-3 and slope[B:].abs().max() > 1e-3  # both sides learn
    with torch.no_grad():
        table -= slope * table.numel() / (2 * (1 + gamma))
    best, _ = evaluated(step, noisy)
    dds, _ = evaluated(step_of("dds"), noisy, rescaled_scale(SCALE, gamma))
    torch.testing.assert_close(best.grad, dds.grad / (1 + gamma), rtol=1e-4, atol=1e-4)


def test_a_critic_that_states_v_is_converted_on_both_sides():
    epsilon = normal(2 * B, *SHAPE, seed=8)
    step = pair(TableCritic(epsilon))
    noisy = noisy_of(step)
    expected, _ = evaluated(step, noisy)
    x_t, t, _ = step.critic.asked
    v = from_epsilon(SCHEDULE, epsilon, x_t, t, "v_prediction")
    found, _ = evaluated(pair(TableCritic(v, "v_prediction")), noisy)
    torch.testing.assert_close(found.grad, expected.grad)


def test_the_critic_is_told_each_sides_prompt_and_the_draw_is_one():
    step = pair(TableCritic(torch.zeros(2 * B, *SHAPE).double()))
    text = text_of(B).with_camera(normal(B, 4, 4, seed=6))
    noisy = noisy_of(step)
    evaluated(step, noisy, text=text)
    x_t, t, told = step.critic.asked
    torch.testing.assert_close(x_t, torch.cat([noisy.x_t, noisy.extras["reference"]]))
    assert torch.equal(t, T.repeat(2))
    words = torch.cat([text["cond"].tokens, text["reference_cond"].tokens])
    torch.testing.assert_close(told.tokens, words)
    torch.testing.assert_close(told.camera, text.critic.camera.repeat(2, 1, 1))
    alpha, sigma = levels_of(T)
    same = (noisy.extras["reference"] - alpha * views_of(B).reference) / sigma
    torch.testing.assert_close(same, noisy.noise)


def test_equal_pictures_and_prompts_stay():
    step = pair(LinearCritic())
    text = text_of(B, reference_cond="y")
    noisy = step.noisy(X0, T, replace(views_of(B), reference=X0), text)
    found, _ = evaluated(step, noisy, text=text)
    assert found.grad.abs().max() < 1e-12


def test_what_lies_beside_a_prediction():
    assert beside("cond", "critic") == "cond" and beside("null", "critic") == "null"
    assert beside("cond", "reference_critic") == "reference_cond"
    assert beside("null", "reference_critic") == "reference_null"
    with pytest.raises(UserError, match=r"no prediction at 'reference'.*like='empty'"):
        beside("empty", "reference_critic")
