"""Scheduled scalars, against threestudio's documented semantics."""

import math

import pytest
from omegaconf import OmegaConf

from threestudio_asd.errors import UserError
from threestudio_asd.studio.config.schedule import C, C_max


@pytest.mark.parametrize(
    ("value", "epoch", "step", "expected"),
    [
        (3, 0, 100, 3),
        (0.5, 9, 0, 0.5),
        ([100, 1.0, 3.0, 200], 0, 0, 1.0),
        ([100, 1.0, 3.0, 200], 0, 150, 2.0),
        ([100, 1.0, 3.0, 200], 0, 999, 3.0),
        # three items start at step 0
        ([1.0, 3.0, 200], 0, 50, 1.5),
        # a float end counts epochs
        ([0, 1.0, 3.0, 10.0], 5, 10_000, 2.0),
        # six or more: further pairs (value, step)
        ([0, 0.0, 1.0, 100, 5.0, 200], 0, 50, 0.5),
        ([0, 0.0, 1.0, 100, 5.0, 200], 0, 100, 1.0),
        ([0, 0.0, 1.0, 100, 5.0, 200], 0, 150, 3.0),
        ([0, 0.0, 1.0, 100, 5.0, 200, 0.0, 300], 0, 275, 1.25),
        ([0, 0.0, 1.0, 100, 5.0, 200, 0.0, 300], 0, 400, 0.0),
        # a jump
        ([0, 1.0, 2.0, 0], 0, 0, 2.0),
        # the official ASD timesteps
        ([5000, 0.98, 0.5, 5001], 0, 4999, 0.98),
        ([5000, 0.98, 0.5, 5001], 0, 5001, 0.5),
    ],
)
def test_value(value, epoch, step, expected):
    assert C(value, epoch, step) == pytest.approx(expected)
    if isinstance(value, list):
        assert C(OmegaConf.create(value), epoch, step) == pytest.approx(expected)


def test_exponential_interpolation_is_linear_in_the_logarithm():
    values = [C([0, 1.0, 1e-4, 100], 0, step, interpolation="exp") for step in (0, 25, 50, 100)]
    assert [math.log10(v) for v in values] == pytest.approx([0, -1, -2, -4])


def test_segments_meet():
    schedule = [0, 0.0, 1.0, 100, 5.0, 200, 2.0, 300]
    for joint in (100, 200):
        left, right = C(schedule, 0, joint - 1), C(schedule, 0, joint)
        assert abs(left - right) <= 0.05


@pytest.mark.parametrize("value", ["abc", None, [1, 2], [0, 1, 2, 3, 4], [0, "a", 1, 2], {"a": 1}])
def test_no_schedule(value):
    with pytest.raises(UserError, match="start_step"):
        C(value, 0, 0)


def test_largest_value():
    assert C_max(2) == 2
    assert C_max([0, 1.0, 3.0, 100]) == 3.0
    assert C_max([0, 1.0, 3.0, 100, 7.0, 200, 0.0, 300]) == 7.0
    assert C_max([5.0, 3.0, 100]) == 5.0
