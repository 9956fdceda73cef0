"""What a user's own file may add, and what it is told when it goes wrong."""

import pytest
import torch

from threestudio_asd.distill import critic, methods, terms, weighting
from threestudio_asd.distill.critic_step import CriticSettings, CriticStep
from threestudio_asd.distill.schedule import NoiseSchedule
from threestudio_asd.distill.scores import Scores
from threestudio_asd.errors import AlreadyRegisteredError, NotRegisteredError, UserError

SCHEDULE = NoiseSchedule.scaled_linear()
SHAPE = (3, 2, 2)

# CSD's classifier term (Yu et al. 2023, arXiv:2310.19415) and a critic with the L1 norm.
USER_FILE = """
from threestudio_asd.distill import Method, register_method, register_source

@register_source("null", needs=("null",))
def null(scores):
    return scores.null

register_method(Method("csd", "cond", "null", None, paper="arXiv:2310.19415"))
"""
USER_CRITIC = """
from threestudio_asd.distill import *

@register_critic_objective("robust", needs_teacher=lambda settings: True)
def robust(step, settings):
    denoise = (step.prediction - denoise_target(step)).abs().mean()
    repel = (step.prediction - gamma_target(step, settings.gamma_target)).abs().mean()
    return {"denoise": denoise, "repel": settings.gamma * repel}

register_method(Method("robust-asd", "guided", "critic", "robust", paper="ours"))
"""


@pytest.fixture(autouse=True)
def _forget_registrations(monkeypatch):
    registries = (
        critic.CRITIC_OBJECTIVES,
        methods.METHODS,
        terms.SOURCES,
        terms.TARGETS,
        weighting.WEIGHTINGS,
    )
    for registry in registries:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def test_a_source_term_from_a_users_file():
    """CSD is SDS / s in the limit of a large scale."""
    exec(USER_FILE, {})
    csd = methods.METHODS.get("csd")
    x_t, noise, null, cond = torch.randn(4, 2, *SHAPE, dtype=torch.float64)
    t = torch.tensor([100, 900])
    scores = Scores(x_t, t, noise, null, cond)
    w = weighting.weight("uniform", SCHEDULE, t, x_t)
    assert csd.critic is None
    torch.testing.assert_close(
        methods.SDS.gradient(scores, 1e8, w) / 1e8,
        csd.gradient(scores, 1.0, w),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_critic_objective_from_a_users_file():
    exec(USER_CRITIC, {})
    method = methods.METHODS.get("robust-asd")
    x0, noise, e_y, prediction = torch.randn(4, 2, *SHAPE)
    t = torch.tensor([100, 900])
    step = CriticStep(
        prediction, "epsilon", SCHEDULE, x0, noise, SCHEDULE.add_noise(x0, noise, t), t, e_y
    )
    loss = sum(method.critic.terms(step, CriticSettings(-0.5)).values())
    expected = (prediction - noise).abs().mean() - 0.5 * (prediction - e_y).abs().mean()
    torch.testing.assert_close(loss, expected)
    assert method.critic.needs_teacher(CriticSettings())


def test_a_weighting_from_a_users_file():
    weighting.register_weighting("half")(lambda abar: 0 * abar + 0.5)
    w = weighting.weight("half", SCHEDULE, torch.tensor([3]), torch.zeros(1))
    assert w.flatten().tolist() == [0.5]


def test_names_are_unique_and_unknown_ones_are_answered_with_the_known():
    for registry in (critic.CRITIC_OBJECTIVES, methods.METHODS, terms.SOURCES, terms.TARGETS):
        known = ", ".join(registry)
        with pytest.raises(NotRegisteredError, match=f"Unknown {registry.kind} 'x'.*: {known}"):
            registry.get("x")
    with pytest.raises(AlreadyRegisteredError, match="source term 'noise'"):
        terms.register_source("noise", needs=())(lambda scores: scores.noise)
    with pytest.raises(AlreadyRegisteredError, match="target term 'guided'"):
        terms.register_target("guided", needs=())(lambda scores, scale: scores.null)
    with pytest.raises(AlreadyRegisteredError, match="critic objective 'asd'"):
        critic.register_critic_objective("asd")(lambda step, settings: {})
    with pytest.raises(AlreadyRegisteredError, match="weighting strategy 'sds'"):
        weighting.register_weighting("sds")(lambda abar: abar)
    with pytest.raises(AlreadyRegisteredError, match="method 'sds'"):
        methods.register_method(methods.SDS)


def test_needs_must_be_fields_of_scores():
    with pytest.raises(UserError, match=r"needs 'e_null'.*cond, critic"):
        terms.register_source("mine", needs=("e_null",))
