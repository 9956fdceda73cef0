"""Schedule and prediction types: round trips, and agreement with diffusers."""

import itertools

import pytest
import torch
from diffusers import DDPMScheduler

from threestudio_asd.distill.prediction_types import (
    PREDICTION_TYPES,
    converted,
    from_epsilon,
    stated,
    to_epsilon,
    to_x0,
)
from threestudio_asd.distill.schedule import DiscreteSchedule, FlowSchedule
from threestudio_asd.distill.timesteps import TimestepRange
from threestudio_asd.distill.weighting import WEIGHTINGS, weight
from threestudio_asd.errors import UserError

SCHEDULE = DiscreteSchedule.scaled_linear()
T = torch.tensor([0, 1, 20, 250, 500, 750, 980, 999])


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(len(T), 4, 3, 5, generator=generator)
    noise = torch.randn(len(T), 4, 3, 5, generator=generator)
    return x0, noise, SCHEDULE.add_noise(x0, noise, T)


def test_agrees_with_diffusers(batch):
    x0, noise, x_t = batch
    theirs = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert torch.equal(SCHEDULE.alphas_cumprod, theirs.alphas_cumprod)
    torch.testing.assert_close(x_t, theirs.add_noise(x0, noise, T))
    velocity = SCHEDULE.alpha(T, x0) * noise - SCHEDULE.sigma(T, x0) * x0
    torch.testing.assert_close(velocity, theirs.get_velocity(x0, noise, T))


def test_signal_and_noise_share_the_unit_of_power(batch):
    x0, _, _ = batch
    power = SCHEDULE.alpha(T, x0) ** 2 + SCHEDULE.sigma(T, x0) ** 2
    torch.testing.assert_close(power, torch.ones(len(T), 1, 1, 1))
    torch.testing.assert_close(SCHEDULE.signal(T).flatten(), SCHEDULE.alphas_cumprod[T])


FLOW = FlowSchedule()
DOUBLE = DiscreteSchedule(SCHEDULE.alphas_cumprod.double())
LEVELS = {"discrete": (DOUBLE, T), "flow": (FLOW, torch.linspace(0.01, 0.99, len(T)).double())}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("kind", "wanted"), itertools.product(PREDICTION_TYPES, repeat=2))
def test_every_prediction_type_says_the_same(kind, wanted, level, batch):
    schedule, t = LEVELS[level]
    x0, noise = (value.double() for value in batch[:2])
    x_t = schedule.add_noise(x0, noise, t)
    alpha, sigma = schedule.alpha(t, x0), schedule.sigma(t, x0)
    said = {
        "epsilon": noise,
        "v_prediction": alpha * noise - sigma * x0,
        "sample": x0,
        "flow_prediction": noise - x0,
    }
    torch.testing.assert_close(stated(schedule, x0, noise, t, kind), said[kind])
    found = converted(schedule, said[kind], x_t, t, kind, wanted)
    torch.testing.assert_close(found, said[wanted])
    torch.testing.assert_close(to_epsilon(schedule, said[kind], x_t, t, kind), noise)
    torch.testing.assert_close(to_x0(schedule, said[kind], x_t, t, kind), x0)


def test_a_flow_is_a_straight_line():
    t, like = torch.tensor([0.0, 0.25, 1.0]), torch.zeros(1)
    assert FLOW.alpha(t, like).flatten().tolist() == [1.0, 0.75, 0.0]
    assert FLOW.sigma(t, like).flatten().tolist() == [0.0, 0.25, 1.0]
    x0, noise = torch.randn(2, 3, 4, 2, 2)
    x_t = FLOW.add_noise(x0, noise, t)
    torch.testing.assert_close(x_t[1], 0.75 * x0[1] + 0.25 * noise[1])
    counted = FlowSchedule(1000.0)
    torch.testing.assert_close(counted.add_noise(x0, noise, 1000 * t), x_t)
    assert counted.between(0.02, 0.98) == TimestepRange(20.0, 980.0)
    assert 0 < FLOW.signal(torch.tensor([FLOW.between(0.0, 1.0).max_step])).item() < 1e-6
    assert FLOW.same_as(FlowSchedule()) and not FLOW.same_as(counted)
    assert not FLOW.same_as(SCHEDULE) and not SCHEDULE.same_as(FLOW)
    assert FLOW.to("meta").device.type == "meta" and FLOW.device.type == "cpu"


def test_pure_noise_is_legal_for_a_flow():
    """At t = 1 a velocity still says all of x_0; an epsilon says nothing, and stays finite."""
    x0, noise = torch.randn(2, 2, 4, 3, 5)
    t = torch.ones(2)
    x_t = FLOW.add_noise(x0, noise, t)
    torch.testing.assert_close(to_x0(FLOW, noise - x0, x_t, t, "flow_prediction"), x0)
    torch.testing.assert_close(to_epsilon(FLOW, noise - x0, x_t, t, "flow_prediction"), noise)
    assert to_x0(FLOW, noise, x_t, t, "epsilon").isfinite().all()
    assert weight("asd", FLOW, t, x0).isfinite().all()


def test_times_of_a_flow_are_drawn_between_the_edges():
    times = FLOW.between(0.1, 0.6).sample(2000)
    assert times.dtype == torch.float32 and 0.1 <= times.min() < 0.11 and 0.59 < times.max() <= 0.6
    with pytest.raises(UserError, match=r"fractions in \[0, 1\]"):
        FLOW.between(0.0, 1.5)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_conversions_round_trip_in_single_precision(prediction_type, batch):
    _, epsilon, x_t = batch
    there = from_epsilon(SCHEDULE, epsilon, x_t, T, prediction_type)
    back = to_epsilon(SCHEDULE, there, x_t, T, prediction_type)
    torch.testing.assert_close(back, epsilon, rtol=1e-4, atol=1e-4)


def test_coefficients_follow_the_dtype_of_the_latents():
    like = torch.zeros(1, dtype=torch.float16)
    assert SCHEDULE.sigma(T, like).dtype == torch.float16
    # Computed before rounding: 1 - abar would lose sigma_0 = 0.029 in half precision.
    torch.testing.assert_close(
        SCHEDULE.sigma(T, like).float(), SCHEDULE.sigma(T, T.float()), rtol=1e-3, atol=0
    )


def test_bad_schedules_and_names_are_refused():
    for values, message in (
        ([0.9, 0.5, -0.1], "must lie in"),
        ([1.1, 0.5, 0.1], "must lie in"),
        ([0.9, float("nan"), 0.1], "must lie in"),
        ([0.9, 0.0, 0.1], "at the last timesteps only"),
        ([0.0, 0.0], "at the last timesteps only"),
    ):
        with pytest.raises(UserError, match=message):
            DiscreteSchedule(torch.tensor(values))
    x = torch.zeros(1, 1, 1, 1)
    t = torch.tensor([3])
    for convert in (to_epsilon, from_epsilon, to_x0):
        with pytest.raises(UserError, match="'velocity'; choose one of: epsilon, v_prediction"):
            convert(SCHEDULE, x, x, t, "velocity")


@pytest.fixture
def zero_terminal():
    """Stable Diffusion's levels, rescaled to end in pure noise, as diffusers does it."""
    theirs = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
    )
    assert theirs.alphas_cumprod[-1] == 0
    return DiscreteSchedule(theirs.alphas_cumprod)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_pure_noise_at_the_last_level_is_finite_everywhere(zero_terminal, prediction_type):
    x0, noise = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    t = torch.tensor([998, 999])
    x_t = zero_terminal.add_noise(x0, noise, t)
    torch.testing.assert_close(x_t[1], noise[1])
    velocity = zero_terminal.alpha(t, x0) * noise - zero_terminal.sigma(t, x0) * x0
    prediction = {"v_prediction": velocity, "sample": x0}[prediction_type]
    epsilon = to_epsilon(zero_terminal, prediction, x_t, t, prediction_type)
    torch.testing.assert_close(epsilon, noise, rtol=1e-4, atol=1e-4)
    assert from_epsilon(zero_terminal, epsilon, x_t, t, prediction_type).isfinite().all()
    if prediction_type == "v_prediction":  # which still says all of x_0
        torch.testing.assert_close(to_x0(zero_terminal, prediction, x_t, t, prediction_type), x0)
    assert to_x0(zero_terminal, epsilon, x_t, t, "epsilon").isfinite().all()


@pytest.mark.parametrize("name", ["sds", "uniform", "fantasia3d", "asd"])
def test_weights_of_pure_noise_are_finite(zero_terminal, name):
    w = weight(name, zero_terminal, torch.tensor([0, 500, 998, 999]), torch.zeros(1))
    assert w.isfinite().all()
    abar = zero_terminal.alphas_cumprod[500].view(1)
    torch.testing.assert_close(w[1].flatten(), WEIGHTINGS.get(name)(abar, 1 - abar))


def test_the_level_of_pure_noise_is_left_out(zero_terminal):
    assert (SCHEDULE.last_step, zero_terminal.last_step) == (999, 998)
    assert zero_terminal.num_timesteps == 1000
    whole = TimestepRange.from_percent(1000, 0.0, 1.0)
    assert whole.up_to(998) == TimestepRange(0, 998)
    assert TimestepRange(999, 999).up_to(998) == TimestepRange(998, 998)
    assert TimestepRange(20, 980).up_to(998) == TimestepRange(20, 980)
