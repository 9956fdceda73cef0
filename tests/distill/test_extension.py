"""What a user's own file may add, and what it is told when it goes wrong."""

from dataclasses import replace

import pytest
import torch

from threestudio_asd.distill import critic, losses, methods, noising, terms, weighting
from threestudio_asd.distill.critic_step import CriticSettings, CriticStep
from threestudio_asd.distill.noising import NoisyBatch, Views
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.errors import AlreadyRegisteredError, NotRegisteredError, UserError
from threestudio_asd.registry import Registry
from threestudio_asd.teachers.analytic import gaussian_epsilon

SCHEDULE = DiscreteSchedule.scaled_linear()
SHAPE = (3, 2, 2)

# CSD's classifier term (Yu et al. 2023, arXiv:2310.19415) and a critic with the L1 norm.
USER_FILE = """
from threestudio_asd.distill import Method, register_method, register_source

@register_source("null", needs=("null",))
def null(predictions):
    return predictions["null"]

register_method(Method("classifier", "cond", "null", None, paper="arXiv:2310.19415"))
"""
USER_CRITIC = """
from threestudio_asd.distill import *

@register_critic_objective("robust", needs=lambda settings: ("cond",))
def robust(step, settings):
    denoise = (step.prediction - denoise_target(step)).abs().mean()
    repel = (step.prediction - gamma_target(step, settings.gamma_target)).abs().mean()
    return {"denoise": denoise, "repel": settings.gamma * repel}

register_method(Method("robust-asd", "guided", "critic", "robust", paper="ours"))
"""
USER_NOISING = """
from threestudio_asd.distill import *

@register_noising("ddim", asks=("null",), adds=("before",))
def ddim(x0, t, views, predict):
    schedule, s = predict.schedule, t // 2
    x_s = schedule.add_noise(x0, torch.zeros_like(x0), s)
    eps = predict("null", x_s, s)
    x_t = schedule.add_noise(to_x0(schedule, eps, x_s, s, "epsilon"), eps, t)
    return NoisyBatch(x0, x_t, t, eps, {"before": x_s})
"""
REGISTRIES = (
    critic.CRITIC_OBJECTIVES,
    losses.LOSSES,
    methods.METHODS,
    noising.NOISINGS,
    terms.SOURCES,
    terms.TARGETS,
    weighting.WEIGHTINGS,
)


@pytest.fixture(autouse=True)
def _forget_registrations(monkeypatch):
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.fixture
def noisy():
    x0, noise = torch.randn(2, 2, *SHAPE, dtype=torch.float64)
    return NoisyBatch.of(SCHEDULE, x0, torch.tensor([100, 900]), noise)


def test_a_source_term_from_a_users_file(noisy):
    """CSD is SDS / s in the limit of a large scale."""
    exec(USER_FILE, {})
    csd = methods.METHODS.get("classifier")
    null, cond = torch.randn(2, 2, *SHAPE, dtype=torch.float64)
    said = Predictions(noisy, {"null": null, "cond": cond})
    w = weighting.weight("uniform", SCHEDULE, noisy.t, noisy.x_t)
    assert csd.critic is None
    torch.testing.assert_close(
        methods.SDS.gradient(said, 1e8, w) / 1e8,
        csd.gradient(said, 1.0, w),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_critic_objective_from_a_users_file(noisy):
    exec(USER_CRITIC, {})
    method = methods.METHODS.get("robust-asd")
    e_y, prediction = torch.randn(2, 2, *SHAPE, dtype=torch.float64)
    step = CriticStep(prediction, "epsilon", SCHEDULE, Predictions(noisy, {"cond": e_y}))
    loss = sum(method.critic.terms(step, CriticSettings(-0.5)).values())
    expected = (prediction - noisy.noise).abs().mean() - 0.5 * (prediction - e_y).abs().mean()
    torch.testing.assert_close(loss, expected)
    assert method.critic.needs(CriticSettings()) == ("cond",)


def test_a_noising_from_a_users_file_inverts_a_step():
    """With a Gaussian teacher DDIM's step has a closed form."""
    exec(USER_NOISING, {"torch": torch})
    row = noising.NOISINGS.get("ddim")
    mean, variance = torch.randn(1, *SHAPE), torch.full((1, 1, 1, 1), 0.3)

    class Predict:
        schedule = SCHEDULE

        def __call__(self, name, x_t, t):
            assert name == "null"
            return gaussian_epsilon(SCHEDULE, x_t, t, mean, variance)

    x0, t, views = torch.randn(2, *SHAPE), torch.tensor([200, 800]), Views(*torch.rand(3, 2))
    found = noising.check_noisy(row.make(x0, t, views, Predict()), row, "ddim")
    s = t // 2
    alpha, sigma = SCHEDULE.alpha(s, x0), SCHEDULE.sigma(s, x0)
    x_s = alpha * x0
    eps = sigma * (x_s - alpha * mean) / (alpha**2 * variance + sigma**2)
    x_t = SCHEDULE.alpha(t, x0) * (x_s - sigma * eps) / alpha + SCHEDULE.sigma(t, x0) * eps
    torch.testing.assert_close(found.x_t, x_t, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.extras["before"], x_s)


def test_a_noising_gives_what_it_declared_in_the_latents_shape(noisy):
    row = noising.Noising(lambda *_: noisy, adds=("kappa",))
    with pytest.raises(UserError, match="'mine' declares kappa and did not add it"):
        noising.check_noisy(noisy, row, "mine")
    gaussian = noising.NOISINGS.get("gaussian")
    for part, value in {
        "x_t": noisy.x_t[:1],
        "noise": noisy.noise[:1],
        "t": noisy.t[:1],
        "kappa": noisy.x_t[:1],
    }.items():
        # Past the check of shapes in tests.
        wrong = replace(noisy)
        named = ("extras", {"kappa": value}) if part == "kappa" else (part, value)
        object.__setattr__(wrong, *named)
        with pytest.raises(UserError, match=rf"'gaussian' made {part} of shape \(1,"):
            noising.check_noisy(wrong, gaussian, "gaussian")


def test_a_noising_adds_no_prediction(noisy):
    noising.register_noising("shadow", adds=("cond",))(lambda *_: noisy)
    with pytest.raises(UserError, match="'shadow' adds cond, the name of a prediction"):
        methods.Method("mine", "guided", "noise", None, "", noising="shadow")


def test_an_unknown_name_in_an_empty_registry():
    with pytest.raises(NotRegisteredError, match="Unknown hat 'bowler'; none is registered"):
        Registry("hat").get("bowler")


def test_a_loss_may_be_a_gradient_written_out(noisy):
    """0.5 |x_0 - stop(x_0 - grad)|^2, as the loss of a row, pushes as the row of terms does."""
    null, cond = torch.randn(2, 2, *SHAPE, dtype=torch.float64)
    w = weighting.weight("sds", SCHEDULE, noisy.t, noisy.x_t)

    @losses.register_loss("sds", needs=("null", "cond"))
    def sds(predictions, scale):
        grad = methods.SDS.gradient(predictions, scale, w)
        x0 = predictions.noisy.x0
        return 0.5 * (x0 - (x0 - grad).detach()).square().sum(dim=(1, 2, 3))

    x0 = noisy.x0.clone().requires_grad_()
    row = methods.Method("sds-loss", None, None, None, paper="none", loss="sds")
    said = Predictions(replace(noisy, x0=x0), {"null": null, "cond": cond})
    row.generator_loss(said, 7.5).backward()
    torch.testing.assert_close(x0.grad, methods.SDS.gradient(said, 7.5, w) / 2)
    with pytest.raises(UserError, match="one loss for each of 2 items"):
        losses.GeneratorLoss("it", lambda p, s: p["cond"].sum(), ("cond",))(said, 1.0)


def test_a_weighting_from_a_users_file():
    weighting.register_weighting("half")(lambda signal, noise: 0 * signal + 0.5)
    w = weighting.weight("half", SCHEDULE, torch.tensor([3]), torch.zeros(1))
    assert w.flatten().tolist() == [0.5]


def test_names_are_unique_and_unknown_ones_are_answered_with_the_known():
    for registry in REGISTRIES:
        known = f": {', '.join(registry)}" if list(registry) else "none is registered"
        with pytest.raises(NotRegisteredError, match=f"Unknown {registry.kind} 'x'.*{known}"):
            registry.get("x")
    with pytest.raises(AlreadyRegisteredError, match="source term 'noise'"):
        terms.register_source("noise", needs=())(lambda said: said.noise)
    with pytest.raises(AlreadyRegisteredError, match="target term 'guided'"):
        terms.register_target("guided", needs=())(lambda said, scale: said["null"])
    with pytest.raises(AlreadyRegisteredError, match="critic objective 'asd'"):
        critic.register_critic_objective("asd")(lambda step, settings: {})
    with pytest.raises(AlreadyRegisteredError, match="weighting strategy 'sds'"):
        weighting.register_weighting("sds")(lambda signal, noise: noise)
    with pytest.raises(AlreadyRegisteredError, match="method 'sds'"):
        methods.register_method(methods.SDS)


def test_a_method_says_what_it_reads():
    terms.register_source("mine", needs=("e_null",))(lambda said: said["e_null"])
    with pytest.raises(
        UserError, match=r"'x': the source term 'mine' needs 'e_null'.*cond, corrective, critic"
    ):
        methods.Method("x", "guided", "mine", None, paper="none")
    with pytest.raises(UserError, match="a target and a source, or a loss"):
        methods.Method("x", "guided", None, None, paper="none")
    with pytest.raises(UserError, match="a target and a source, or a loss"):
        methods.Method("x", None, None, None, paper="none")
    with pytest.raises(UserError, match=r"through cond, which it does not read"):
        losses.register_loss("x", needs=("null",), through=("cond",))


def test_reading_what_was_not_declared_names_term_and_prediction(noisy):
    terms.register_source("sly", needs=("null",))(lambda said: said["cond"])
    row = methods.Method("sly", "guided", "sly", None, paper="none")
    null, cond = torch.randn(2, 2, *SHAPE, dtype=torch.float64)
    said = Predictions(noisy, {"null": null, "cond": cond})
    with pytest.raises(UserError, match=r"no prediction 'cond' for the source term 'sly'.*null"):
        row.gradient(said, 1.0, weighting.weight("sds", SCHEDULE, noisy.t, noisy.x_t))


def test_extras_are_read_like_predictions(noisy):
    with_extra = replace(noisy, extras={"before": noisy.x0})
    said = Predictions(with_extra, {"null": noisy.x_t})
    assert set(said) == {"null", "before"} and len(said) == 2 and "before" in said
    limited = said.limited(("before",), "me")
    assert torch.equal(limited["before"], noisy.x0)
    with pytest.raises(UserError, match="no prediction 'null' for me"):
        limited["null"]
