"""The analytic teachers against autograd of the diffused density."""

import math

import pytest
import torch

from threestudio_asd.distill.prediction_types import PREDICTION_TYPES
from threestudio_asd.distill.schedule import DiscreteSchedule, FlowSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.teachers.analytic import GaussianMixtureTeacher, GaussianTeacher, stating

SCHEDULE = DiscreteSchedule.scaled_linear()
SHAPE = (3, 2, 2)
T = torch.tensor([1, 100, 500, 900, 999])


def components(shape=SHAPE):
    g = torch.Generator().manual_seed(0)
    red, blue = torch.randn(2, *shape, generator=g)
    return {"a red dot": (red, 0.3), "a blue dot": (blue, 0.7)}


def minus_sigma_score(x_t, t, parts):
    """-sigma grad log sum_k w_k N(x_t; alpha m_k, alpha^2 s_k^2 + sigma^2), by autograd."""
    x_t = x_t.double().requires_grad_()
    abar = SCHEDULE.alphas_cumprod[t].double()
    logs = []
    for share, mean, std in parts:
        variance = abar * std**2 + 1 - abar
        distance = (x_t - abar.sqrt().view(-1, 1, 1, 1) * mean).square().flatten(1).sum(1)
        log_normal = -0.5 * (distance / variance + mean.numel() * torch.log(2 * math.pi * variance))
        logs.append(math.log(share) + log_normal)
    (score,) = torch.autograd.grad(torch.stack(logs).logsumexp(0).sum(), x_t)
    return (-(1 - abar).sqrt().view(-1, 1, 1, 1) * score).float()


@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1), (4, 8, 6)])
def test_gaussian_epsilon_is_the_score(shape):
    parts = {"": (torch.zeros(shape), 1.0), **components(shape)}
    teacher = GaussianTeacher(parts, SCHEDULE)
    x_t = torch.randn(len(T), *shape)
    for prompt, (mean, std) in parts.items():
        condition = teacher.embed_text([prompt] * len(T))
        expected = minus_sigma_score(x_t, T, [(1.0, mean, std)])
        torch.testing.assert_close(
            teacher.epsilon(x_t, T, condition), expected, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1), (4, 8, 6)])
def test_mixture_epsilon_is_the_score(shape):
    parts = components(shape)
    teacher = GaussianMixtureTeacher(parts, SCHEDULE, weights=[3.0, 1.0])
    (red, red_std), (blue, blue_std) = parts.values()
    x_t = SCHEDULE.add_noise(
        (red + blue)[None].expand(len(T), *shape) / 2, torch.randn(5, *shape), T
    )
    cases = {
        "": [(0.75, red, red_std), (0.25, blue, blue_std)],
        "a red dot": [(1.0, red, red_std)],
        "a blue dot": [(1.0, blue, blue_std)],
    }
    for prompt, mixture in cases.items():
        condition = teacher.embed_text([prompt] * len(T))
        expected = minus_sigma_score(x_t, T, mixture)
        torch.testing.assert_close(
            teacher.epsilon(x_t, T, condition), expected, rtol=1e-4, atol=1e-4
        )


def test_a_batch_may_mix_prompts():
    teacher = GaussianMixtureTeacher(components(), SCHEDULE)
    prompts = ["a red dot", "", "a blue dot", "", "a red dot"]
    x_t, condition = torch.randn(5, *SHAPE), teacher.embed_text(prompts)
    together = teacher.epsilon(x_t, T, condition)
    for i in range(5):
        alone = teacher.epsilon(x_t[i : i + 1], T[i : i + 1], condition[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)


def test_prompts_may_carry_a_view_and_unknown_ones_are_named():
    teacher = GaussianMixtureTeacher(components(), SCHEDULE)
    plain, view = teacher.embed_text(["a red dot", "a red dot, side view"]).tokens
    assert torch.equal(plain, view)
    with pytest.raises(UserError, match=r"'a cow'.*'a red dot', 'a blue dot'"):
        teacher.embed_text(["a cow"])
    with pytest.raises(UserError, match="'a cow'"):
        GaussianTeacher({"": (torch.zeros(SHAPE), 1.0)}, SCHEDULE).embed_text(["a cow"])


def test_contract():
    teacher = GaussianMixtureTeacher(components((3, 8, 8)), SCHEDULE)
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    assert teacher.latent_shape == (3, 8, 8)
    assert teacher.image_size == 8
    assert torch.equal(teacher.decode(teacher.encode(images)), images)
    teacher.encode(images).sum().backward()
    assert images.grad is not None


def test_bad_components_are_refused():
    with pytest.raises(UserError, match="unconditional"):
        GaussianTeacher(components(), SCHEDULE)
    with pytest.raises(UserError, match="negative"):
        GaussianMixtureTeacher({"a": (torch.zeros(SHAPE), -1.0)}, SCHEDULE)
    with pytest.raises(UserError, match="one positive weight"):
        GaussianMixtureTeacher(components(), SCHEDULE, weights=[1.0])


def test_another_prediction_type_is_the_same_model():
    teacher = GaussianMixtureTeacher(components(), SCHEDULE)
    x_t, condition = torch.randn(5, *SHAPE), teacher.embed_text(["a red dot", "", ""] * 2)[:5]
    for kind in PREDICTION_TYPES:
        found = stating(teacher, kind).epsilon(x_t, T, condition)
        torch.testing.assert_close(found, teacher.epsilon(x_t, T, condition), rtol=1e-3, atol=1e-4)


def test_a_mixture_on_a_flow_is_its_score():
    """At the flow's t with alpha = 1 - t, sigma = t, against a variance-preserving level of the
    same ratio: x_t / alpha is the same there, and so is the noise."""
    flow, parts = FlowSchedule(), components()
    there, here = GaussianMixtureTeacher(parts, SCHEDULE), GaussianMixtureTeacher(parts, flow)
    x0 = torch.randn(5, *SHAPE)
    ratio = SCHEDULE.sigma(T, x0) / SCHEDULE.alpha(T, x0)
    t = (ratio / (1 + ratio)).flatten()
    noise, condition = torch.randn(5, *SHAPE), there.embed_text([""] * 5)
    expected = there.epsilon(SCHEDULE.add_noise(x0, noise, T), T, condition)
    found = here.epsilon(flow.add_noise(x0, noise, t), t, condition)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
