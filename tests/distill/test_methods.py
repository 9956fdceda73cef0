"""The rows of the method table against expectations that are known exactly."""

import math

import numpy as np
import pytest
import torch

from threestudio_asd.distill.critic import optimal_critic, rescaled_scale
from threestudio_asd.distill.critic_step import CriticSettings, CriticStep
from threestudio_asd.distill.gradient import reparametrised_loss
from threestudio_asd.distill.methods import ASD, METHODS, SDS, SJC, VSD, Method
from threestudio_asd.distill.noising import NoisyBatch
from threestudio_asd.distill.prediction_types import to_epsilon
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.distill.weighting import weight
from threestudio_asd.errors import NotRegisteredError, UserError
from threestudio_asd.teachers.analytic import (
    GaussianMixtureTeacher,
    GaussianTeacher,
    gaussian_epsilon,
)

SCHEDULE = DiscreteSchedule.scaled_linear()
SHAPE = (3, 2, 2)


def predict(teacher, prompt, x0, noise, t, **others):
    """What the guidance layer does: noise the renders, ask the teacher with and without prompt."""
    noisy = NoisyBatch.of(SCHEDULE, x0, t, noise)
    said = {
        name: teacher.epsilon(noisy.x_t, t, teacher.embed_text([words]).repeat(len(t)))
        for name, words in (("null", ""), ("cond", prompt))
    }
    return Predictions(noisy, said | others)


@pytest.fixture
def gaussians():
    means = torch.randn(2, *SHAPE)
    return GaussianTeacher({"": (means[0], 1.0), "y": (means[1], 0.5)}, SCHEDULE)


@pytest.mark.parametrize("step", [100, 500, 900])
@pytest.mark.parametrize("scale", [1.0, 7.5, 100.0])
def test_expected_sds_gradient_of_a_gaussian(gaussians, step, scale):
    """E_eps[e(alpha x + sigma eps)] = sigma alpha (x - m)/(alpha^2 v + sigma^2), E[eps] = 0."""
    x = torch.randn(1, *SHAPE)
    half = torch.randn(64, *SHAPE)
    noise = torch.cat([half, -half])  # antithetic: the mean over affine scores is exact
    latents = x.expand(128, *SHAPE).clone().requires_grad_()
    t = torch.full((128,), step)
    predictions = predict(gaussians, "y", latents.detach(), noise, t)
    grad = SDS.gradient(predictions, scale, weight("sds", SCHEDULE, t, latents))
    reparametrised_loss(latents, grad).backward()

    abar = SCHEDULE.alphas_cumprod[step].item()
    null, cond = (
        math.sqrt(abar * (1 - abar)) * (x - mean) / (abar * variance + 1 - abar)
        for mean, variance in zip(gaussians.means, gaussians.variances, strict=True)
    )
    expected = (1 - abar) * (null + scale * (cond - null))
    # The loss divides by the batch size, so the summed gradient is the mean over noises.
    torch.testing.assert_close(
        latents.grad.sum(0, keepdim=True), expected, rtol=1e-4, atol=1e-5 * scale
    )


@pytest.mark.parametrize("step", [100, 500, 900])
def test_expected_sds_gradient_of_a_mixture(step):
    """Against Gauss-Hermite quadrature of a numerically differentiated density, in 1D."""
    parts = {"left": (torch.full((1, 1, 1), -1.0), 0.3), "right": (torch.full((1, 1, 1), 1.5), 0.6)}
    teacher = GaussianMixtureTeacher(parts, SCHEDULE, weights=[2.0, 1.0])
    x, scale, n = 0.4, 7.5, 200_000
    half = torch.randn(n // 2, 1, 1, 1)
    noise, t = torch.cat([half, -half]), torch.full((n,), step)
    predictions = predict(teacher, "right", torch.full((n, 1, 1, 1), x), noise, t)
    measured = SDS.gradient(predictions, scale, weight("uniform", SCHEDULE, t, noise)).mean().item()

    abar = SCHEDULE.alphas_cumprod[step].double().item()
    alpha, sigma = math.sqrt(abar), math.sqrt(1 - abar)
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(80)
    points = alpha * x + sigma * nodes

    def epsilon(components):
        def log_density(z):
            return np.log(
                sum(
                    w / math.sqrt(v) * np.exp(-0.5 * (z - alpha * m) ** 2 / v)
                    for w, m, v in ((w, m, abar * s**2 + sigma**2) for w, m, s in components)
                )
            )

        h = 1e-5
        return -sigma * (log_density(points + h) - log_density(points - h)) / (2 * h)

    cond = epsilon([(1.0, 1.5, 0.6)])
    null = epsilon([(2.0, -1.0, 0.3), (1.0, 1.5, 0.6)])
    expected = (node_weights * (null + scale * (cond - null))).sum() / node_weights.sum()
    assert measured == pytest.approx(expected, rel=0.01)


def test_asd_at_gamma_zero_is_a_vsd_step_written_out():
    """Two steps of generator and critic, with plain loops' arithmetic beside the package's."""
    g = torch.Generator().manual_seed(3)
    teacher = GaussianMixtureTeacher(
        {"a": (torch.randn(SHAPE, generator=g), 0.4), "b": (torch.randn(SHAPE, generator=g), 0.8)},
        SCHEDULE,
    )
    s, batch = 7.5, 4
    latents = torch.randn(batch, *SHAPE, generator=g)
    ours, theirs = (latents.clone().requires_grad_() for _ in range(2))
    our_critic, their_critic = (torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
    their_critic.load_state_dict(our_critic.state_dict())
    steps = [
        torch.optim.SGD([{"params": [x]}, {"params": critic.parameters()}], lr=0.1)
        for x, critic in ((ours, our_critic), (theirs, their_critic))
    ]
    for _ in range(2):
        t = torch.randint(20, 981, (batch,), generator=g)
        noise = torch.randn(batch, *SHAPE, generator=g)
        _asd_step(teacher, ours, our_critic, steps[0], t, noise, s)
        _vsd_step(teacher, theirs, their_critic, steps[1], t, noise, s)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        for mine, other in zip(our_critic.parameters(), their_critic.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def _asd_step(teacher, latents, critic, optimiser, t, noise, s):
    x0, settings = latents.detach(), CriticSettings(gamma=0.0)
    prediction = critic(SCHEDULE.add_noise(x0, noise, t))
    predictions = predict(teacher, "a", x0, noise, t, critic=prediction.detach())
    loss = reparametrised_loss(
        latents, ASD.gradient(predictions, s, weight("sds", SCHEDULE, t, latents))
    )
    step = CriticStep(prediction, "epsilon", SCHEDULE, predictions)
    loss = loss + sum(ASD.critic.terms(step, settings).values())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _vsd_step(teacher, latents, critic, optimiser, t, noise, s):
    """ProlificDreamer's update, without any of the package's mathematics."""
    abar = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
    x_t = (abar.sqrt() * latents + (1 - abar).sqrt() * noise).detach()
    null, cond = (
        teacher.epsilon(x_t, t, teacher.embed_text([words]).repeat(len(t))) for words in ("", "a")
    )
    e_phi = critic(x_t)
    pushed = (1 - abar) * (null + s * (cond - null) - e_phi.detach())
    optimiser.zero_grad()
    latents.backward(gradient=pushed / len(t))
    (e_phi - noise).pow(2).mean().backward()
    optimiser.step()


def test_vsd_and_asd_at_gamma_zero_agree_to_the_bit():
    x0, noise, prediction, e_y = torch.randn(4, 2, *SHAPE)
    t = torch.tensor([100, 800])
    predictions = Predictions(NoisyBatch.of(SCHEDULE, x0, t, noise), {"cond": e_y})
    step = CriticStep(prediction, "v_prediction", SCHEDULE, predictions)
    vsd, asd = (method.critic.terms(step, CriticSettings()) for method in (VSD, ASD))
    assert vsd.keys() == asd.keys() == {"denoise"}
    assert torch.equal(vsd["denoise"], asd["denoise"])


@pytest.mark.parametrize("gamma", [-0.75, -0.5, 1.0])
def test_asd_with_an_optimal_critic_is_vsd_at_the_rescaled_scale(gaussians, gamma):
    t = torch.tensor([100, 500, 900])
    render, std = torch.randn(1, *SHAPE), 0.2
    x0 = render + std * torch.randn(3, *SHAPE)
    plain = predict(gaussians, "y", x0, torch.randn_like(x0), t)
    eps_bar = gaussian_epsilon(SCHEDULE, plain.x_t, t, render, torch.full((1, 1, 1, 1), std**2))
    w = weight("uniform", SCHEDULE, t, x0)

    def direction(method, critic, s):
        return method.gradient(Predictions(plain.noisy, {**plain, "critic": critic}), s, w)

    asd = direction(ASD, optimal_critic(eps_bar, plain["cond"], gamma), 7.5)
    vsd = direction(VSD, eps_bar, rescaled_scale(7.5, gamma))
    torch.testing.assert_close(asd * (1 + gamma), vsd, rtol=1e-4, atol=1e-5)


def test_rescaled_scale_of_the_papers_settings():
    assert rescaled_scale(7.5, -0.5) == 4.25
    assert rescaled_scale(7.5, -0.75) == 2.625
    assert rescaled_scale(7.5, 0.0) == 7.5


def test_vsd_whose_critic_repeats_the_noise_is_sds(gaussians):
    t, x0, noise = torch.tensor([50, 700]), *torch.randn(2, 2, *SHAPE)
    predictions = predict(gaussians, "y", x0, noise, t, critic=noise)
    w = weight("asd", SCHEDULE, t, x0)
    assert torch.equal(VSD.gradient(predictions, 7.5, w), SDS.gradient(predictions, 7.5, w))


def test_guidance_rescale_reaches_the_target(gaussians):
    t, x0, noise = torch.tensor([50, 700]), *torch.randn(2, 2, *SHAPE)
    predictions = predict(gaussians, "y", x0, noise, t)
    w = weight("uniform", SCHEDULE, t, x0)
    target = SDS.gradient(predictions, 20.0, w, rescale=1.0) + noise
    torch.testing.assert_close(target.std(dim=(1, 2, 3)), predictions["cond"].std(dim=(1, 2, 3)))


@pytest.mark.parametrize("step", [100, 900])
def test_sjc_is_the_difference_of_denoisings_in_its_own_coordinates(gaussians, step):
    """z = x_0 + s eps with s = sigma/alpha; z - D(z) over s, and x_0 - D(z) over s for SDS."""
    x0, noise = torch.randn(2, 1, *SHAPE)
    t = torch.tensor([step])
    predictions = predict(gaussians, "y", x0, noise, t)
    alpha, sigma = SCHEDULE.alpha(t, x0), SCHEDULE.sigma(t, x0)
    z, s = predictions.x_t / alpha, sigma / alpha
    null, cond = predictions["null"], predictions["cond"]
    e = null + 7.5 * (cond - null)
    denoised = (predictions.x_t - sigma * e) / alpha
    w = weight("uniform", SCHEDULE, t, x0)
    for method, start in ((SJC, z), (SDS, x0)):
        grad = method.gradient(predictions, 7.5, w)
        torch.testing.assert_close(grad, (start - denoised) / s, rtol=1e-4, atol=1e-3)


def test_a_method_says_what_it_needs():
    expected = {
        "mvdream": ("cond", "null"),
        "sjc": ("cond", "null"),
        "sds": ("cond", "null"),
        "vsd": ("cond", "critic", "null"),
        "asd": ("cond", "critic", "null"),
        "fsd": ("cond", "null"),
    }
    assert {name: METHODS.get(name).needs for name in expected} == expected
    assert SDS.critic is None
    assert VSD.critic.needs(CriticSettings(gamma=-0.5)) == ()
    assert ASD.critic.needs(CriticSettings(gamma=0.0)) == ()
    assert ASD.critic.needs(CriticSettings(gamma=-0.5)) == ("cond",)


def test_inconsistent_rows_are_refused(gaussians):
    with pytest.raises(UserError, match="neither"):
        Method("untrained", "guided", "critic", None, paper="")
    with pytest.raises(UserError, match="neither"):
        Method("unread", "guided", "noise", "denoise", paper="")
    with pytest.raises(NotRegisteredError, match=f"'sdd'; choose one of: {', '.join(METHODS)}"):
        METHODS.get("sdd")
    for wrong in ("target", "source", "critic_objective"):
        row = {"target": "guided", "source": "critic", "critic_objective": "asd", wrong: "typo"}
        with pytest.raises(NotRegisteredError, match="'typo'; choose one of"):
            Method("wrong", **row, paper="")
    t, x0, noise = torch.tensor([50]), *torch.randn(2, 1, *SHAPE)
    predictions = predict(gaussians, "y", x0, noise, t)
    with pytest.raises(UserError, match="no prediction 'critic'"):
        VSD.gradient(predictions, 7.5, weight("sds", SCHEDULE, t, x0))


def test_a_v_critic_enters_as_epsilon():
    """|v - v'|^2 abar = |e - e'|^2: the border conversion and the loss's factor 1/abar agree."""
    x0, noise, v = torch.randn(3, 2, *SHAPE)
    t = torch.tensor([100, 800])
    x_t = SCHEDULE.add_noise(x0, noise, t)
    v_true = SCHEDULE.alpha(t, x0) * noise - SCHEDULE.sigma(t, x0) * x0
    epsilon = to_epsilon(SCHEDULE, v, x_t, t, "v_prediction")
    torch.testing.assert_close(
        (epsilon - noise) ** 2, SCHEDULE.signal(t) * (v - v_true) ** 2, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("step", [20, 300, 600])
def test_vsd_of_a_perfect_critic_on_two_particles_is_sds(step):
    """A noisy latent tells which of two particles it came from, hence the noise."""
    shape = (4, 8, 8)
    particles = {"one": (torch.randn(shape), 0.0), "two": (torch.randn(shape), 0.0)}
    perfect = GaussianMixtureTeacher(particles, SCHEDULE)
    teacher = GaussianTeacher(
        {"": (torch.zeros(shape), 1.0), "y": (torch.ones(shape), 0.5)}, SCHEDULE
    )
    x0, t = perfect.means.repeat(8, 1, 1, 1), torch.full((16,), step)
    noise = torch.randn_like(x0)
    x_t = SCHEDULE.add_noise(x0, noise, t)
    critic = perfect.epsilon(x_t, t, perfect.embed_text([""]).repeat(16))
    predictions = predict(teacher, "y", x0, noise, t, critic=critic)
    w = weight("uniform", SCHEDULE, t, x_t)
    sds = SDS.gradient(predictions, 7.5, w)
    assert sds.abs().mean() > 0.1
    torch.testing.assert_close(VSD.gradient(predictions, 7.5, w), sds, rtol=1e-3, atol=1e-3)
