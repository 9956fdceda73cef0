"""The numbers of MVDream's official network, recomputed from a file of its weights."""

from dataclasses import replace

import pytest
import torch
from mvdream_files import CASES, NUMBERS, official_state, teacher_of, write_base
from safetensors.torch import load_file

from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.views import join_views

TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """A case's name, and the teacher that is made of its file."""
    folder = tmp_path_factory.mktemp(request.param)
    base, file = write_base(folder / "base", request.param), folder / "official.pt"
    torch.save(official_state(request.param), file)
    return request.param, teacher_of(base, ckpt_path=file)


@pytest.fixture
def inputs():
    found = load_file(NUMBERS)
    return {key: found[key] for key in ("x", "t", "context", "c2w")}


def error(case, inputs, told=True, expected="camera"):
    """The largest difference from the official prediction, relative to its largest entry."""
    name, teacher = case
    condition = Condition(inputs["context"], camera=inputs["c2w"] if told else None)
    with torch.no_grad():
        got = teacher.epsilon(inputs["x"], inputs["t"], condition)
    official = load_file(NUMBERS)[f"{name}.{expected}"]
    return ((got - official).abs().max() / official.abs().max()).item()


def test_predictions_with_cameras_are_the_official_networks(case, inputs):
    assert error(case, inputs) < TOLERANCE


def test_predictions_without_cameras_are_the_official_networks(case, inputs):
    assert error(case, inputs, told=False, expected="no_camera") < TOLERANCE


def test_a_scene_alone_is_predicted_as_beside_another(case, inputs):
    name, teacher = case
    half = {key: value[4:] for key, value in inputs.items()}
    with torch.no_grad():
        got = teacher.epsilon(half["x"], half["t"], Condition(half["context"], camera=half["c2w"]))
    torch.testing.assert_close(got, load_file(NUMBERS)[f"{name}.camera"][4:], rtol=1e-4, atol=1e-4)


SWAPPED = [1, 0, 2, 3, 4, 5, 6, 7]
CHANGES = {
    "two views swapped": ("x", SWAPPED),
    "two cameras swapped": ("c2w", SWAPPED),
    "a view of each scene swapped": ("x", [4, 1, 2, 3, 0, 5, 6, 7]),
    "the other scene's time": ("t", [4, 5, 6, 7, 0, 1, 2, 3]),
    "another view's text": ("context", SWAPPED),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_numbers_notice(case, inputs, change):
    key, order = CHANGES[change]
    assert error(case, inputs | {key: inputs[key][order]}) > 0.01


def test_the_numbers_notice_cameras_and_the_other_views(case, inputs):
    assert error(case, inputs, told=False) > 0.01
    name, teacher = case
    try:
        single = replace(teacher.net, views_at_once=1)
        assert error((name, single), inputs) > 0.01
    finally:
        join_views(teacher.unet, 4)
    assert error(case, inputs) < TOLERANCE


def test_the_numbers_notice_a_slip_in_the_cameras_layers(case, inputs):
    linear = case[1].unet.class_embedding.linear_1
    before = linear.weight.clone()
    linear.weight.data = before.view(-1, 4, 4).transpose(1, 2).flatten(1)  # columns for rows
    try:
        assert error(case, inputs) > 0.01
    finally:
        linear.weight.data = before
