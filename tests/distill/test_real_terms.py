"""The discriminator's terms on real pictures: gradients, items of a batch, and the optimum of the
whole loss on Gaussians."""

import pytest
import torch

from threestudio_asd.distill.critic import CRITIC_OBJECTIVES, optimal_critic
from threestudio_asd.distill.critic_step import CriticSettings, CriticStep
from threestudio_asd.distill.noising import NoisyBatch
from threestudio_asd.distill.prediction_types import from_epsilon
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.distill.real_terms import optimal_discriminator, real_terms
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.teachers.analytic import gaussian_epsilon

SCHEDULE = DiscreteSchedule.scaled_linear()
SHAPE = (1, 1, 1)
T = 500
FAKE, REAL, TEACHER = (-0.6, 0.5), (0.8, 0.7), (0.5, 0.9)  # mean and deviation of x_0


def normal(n, seed, shape=SHAPE):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)).double()


def draw(n, world, seed):
    mean, std = world
    x0 = mean + std * normal(n, seed)
    return NoisyBatch.of(SCHEDULE, x0, torch.full((n,), T), normal(n, seed + 1))


def epsilon(x_t, world):
    mean, std = torch.tensor(world).double()
    times = torch.full((len(x_t),), T)
    return gaussian_epsilon(
        SCHEDULE, x_t, times, mean.view(1, 1, 1, 1), std.square().view(1, 1, 1, 1)
    )


def density(x_t, world):
    alpha, sigma = (f(torch.tensor([T]), x_t) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
    mean, std = world
    spread = (alpha**2 * std**2 + sigma**2).sqrt()
    return torch.distributions.Normal(alpha * mean, spread).log_prob(x_t).exp()


def step_of(prediction, noisy, e_y, kind="epsilon"):
    return CriticStep(prediction, kind, SCHEDULE, Predictions(noisy, {"cond": e_y}))


def around(x_t, world):
    """Each x_t with two noises, whose mean is the one that ``world`` has there."""
    mean, n = epsilon(x_t, world), len(x_t)
    noise = torch.cat([mean - 0.3, mean + 0.3])
    x_t, t = x_t.repeat(2, 1, 1, 1), torch.full((2 * n,), T)
    alpha, sigma = SCHEDULE.alpha(t, x_t), SCHEDULE.sigma(t, x_t)
    return NoisyBatch((x_t - sigma * noise) / alpha, x_t, t, noise)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_written_out(kind):
    noisy, said, e_y = draw(3, REAL, 0), normal(3, 8), normal(3, 9)
    target = noisy.noise, e_y
    if kind == "v_prediction":
        target = (from_epsilon(SCHEDULE, x, noisy.x_t, noisy.t, kind) for x in target)
    noise, teacher = target
    terms = real_terms(step_of(said, noisy, e_y, kind), 0.3, 0.7)
    torch.testing.assert_close(terms["real_denoise"], -0.3 * (said - noise).square().mean())
    torch.testing.assert_close(terms["real_attract"], 0.21 * (said - teacher).square().mean())


def test_gradients():
    noisy, e_y = draw(3, REAL, 0), normal(3, 9)
    said = normal(3, 8).requires_grad_()

    def loss(prediction):
        return sum(real_terms(step_of(prediction, noisy, e_y), 0.3).values())

    assert loss(said).dtype == torch.float64
    torch.autograd.gradcheck(loss, said)


def test_a_batch_is_the_mean_of_its_items():
    noisy, said, e_y = draw(4, REAL, 0), normal(4, 8), normal(4, 9)
    whole = real_terms(step_of(said, noisy, e_y), 0.3)
    for name, value in whole.items():
        items = []
        for i in range(4):
            row = slice(i, i + 1)
            one = NoisyBatch(noisy.x0[row], noisy.x_t[row], noisy.t[row], noisy.noise[row])
            items.append(real_terms(step_of(said[row], one, e_y[row]), 0.3)[name])
        torch.testing.assert_close(value, torch.stack(items).mean())


def whole_slope(table, x_t, gamma, weight, attraction):
    """The whole loss's gradient in a critic that is free at each x_t, by Gaussians' densities."""
    e_y = epsilon(x_t, TEACHER).repeat(2, 1, 1, 1)
    total = 0.0
    parts = {world: around(x_t, world) for world in (FAKE, REAL)}
    for i in range(len(x_t)):
        rows = [i, i + len(x_t)]
        for world, noisy in parts.items():
            own = NoisyBatch(*(x[rows] for x in (noisy.x0, noisy.x_t, noisy.t, noisy.noise)))
            step = step_of(table[[i, i]], own, e_y[rows])
            if world == FAKE:
                terms = CRITIC_OBJECTIVES.get("asd").terms(step, CriticSettings(gamma))
            else:
                terms = real_terms(step, weight, attraction)
            total = total + density(x_t[i], world).item() * sum(terms.values())
    return torch.autograd.grad(total, table)[0]


@pytest.mark.parametrize("gamma", [0.0, -0.5])
@pytest.mark.parametrize(("weight", "attraction"), [(0.1, 0.5), (0.4, 1.2)])
def test_the_closed_form_is_where_the_whole_loss_is_flat(gamma, weight, attraction):
    x_t = torch.linspace(-1.5, 1.0, 6).double().view(-1, *SHAPE)
    odds = weight * density(x_t, REAL) / density(x_t, FAKE)
    scores = (epsilon(x_t, world) for world in (FAKE, REAL, TEACHER))
    best = optimal_discriminator(*scores, gamma, odds, attraction).requires_grad_()
    settings = (x_t, gamma, weight, attraction)
    assert whole_slope(best, *settings).abs().max() < 1e-12
    off = (best + 0.1).detach().requires_grad_()
    assert whole_slope(off, *settings).min() > 1e-4  # and it is a minimum


def test_without_real_pictures_it_is_the_critics_own_optimum():
    x_t = normal(5, 3)
    fake, real, teacher = (epsilon(x_t, world) for world in (FAKE, REAL, TEACHER))
    torch.testing.assert_close(
        optimal_discriminator(fake, real, teacher, -0.5, 0.0), optimal_critic(fake, teacher, -0.5)
    )
    # Pictures that the teacher describes repel as a gamma further down does.
    torch.testing.assert_close(
        optimal_discriminator(fake, teacher, teacher, -0.5, 0.4),
        optimal_critic(fake, teacher, -0.7),
    )


def test_dense_real_pictures_leave_no_minimum():
    scores = (torch.zeros(2, *SHAPE),) * 3
    optimal_discriminator(*scores, -0.5, 0.99)
    with pytest.raises(UserError, match="no minimum"):
        optimal_discriminator(*scores, -0.5, torch.tensor([0.1, 1.0]).view(2, 1, 1, 1))
    optimal_discriminator(*scores, -0.5, 100.0, attraction=1.0)


def test_a_trained_critic_reaches_it():
    """Renders and real pictures of one distribution: the best critic is linear in x_t."""
    gamma, weight, attraction, world = -0.4, 0.5, 0.5, (-0.6, 0.5)
    parameters = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], line_search_fn="strong_wolfe")
    fake, real = draw(200_000, world, 10), draw(200_000, world, 20)

    def critic(x_t):
        return parameters[0] * x_t + parameters[1]

    def loss():
        optimiser.zero_grad()
        at_fake = step_of(critic(fake.x_t), fake, epsilon(fake.x_t, TEACHER))
        at_real = step_of(critic(real.x_t), real, epsilon(real.x_t, TEACHER))
        terms = CRITIC_OBJECTIVES.get("asd").terms(at_fake, CriticSettings(gamma))
        total = sum((terms | real_terms(at_real, weight, attraction)).values())
        total.backward()
        return total

    optimiser.step(loss)
    x_t = torch.linspace(-1.5, 1.0, 6).double().view(-1, *SHAPE)
    own, teacher = epsilon(x_t, world), epsilon(x_t, TEACHER)
    best = optimal_discriminator(own, own, teacher, gamma, weight, attraction)
    with torch.no_grad():
        assert (critic(x_t) - best).abs().max() < 0.02
        assert (critic(x_t) - optimal_critic(own, teacher, gamma)).abs().max() > 0.1
