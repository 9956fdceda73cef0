"""Where the front of a result is, on results that are made from true views."""

import pytest
import torch
import torch.nn.functional as F

from threestudio_asd.tiny.render import FIXED_AZIMUTHS, fixed_views
from threestudio_asd.tiny.turns import Facing, facing, views_around


def seen(name, degrees):
    """The fixed views of the true object, turned."""
    images, masks = views_around(name, "green")
    shown = (torch.tensor(FIXED_AZIMUTHS) + degrees) // 5 % 72
    return images[shown], masks[shown]


@pytest.mark.parametrize("name", ["mug", "chair", "snowman", "house"])
@pytest.mark.parametrize(("turn", "error"), [(0, 0.0), (30, 30.0), (180, 180.0), (350, 10.0)])
def test_the_front_is_found_at_any_turn(name, turn, error):
    assert facing(*seen(name, turn), name, "green") == Facing(error, False)


def test_turns_that_change_nothing_are_no_error():
    assert facing(*seen("table", 90), "table", "green").azimuth_error == 0.0
    assert facing(*seen("table", 130), "table", "green").azimuth_error == 40.0
    assert facing(*seen("torus", 40), "torus", "green") == Facing(None, None)


@pytest.mark.parametrize("name", ["mug", "chair", "snowman", "house"])
def test_a_second_front_is_janus(name):
    images, masks = seen(name, 0)
    images, masks = images.clone(), masks.clone()
    images[4], masks[4] = images[0], masks[0]
    found = facing(images, masks, name, "green")
    assert found == Facing(0.0, True)


def test_noise_and_another_tint_do_not_make_janus():
    images, masks = seen("chair", 60)
    noise = 0.1 * torch.randn(images.shape, generator=torch.manual_seed(0))
    assert facing(images + noise, masks, "chair", "green") == Facing(60.0, False)
    assert facing(0.8 * images, masks, "chair", "green") == Facing(60.0, False)


@pytest.mark.parametrize("name", ["mug", "chair", "snowman", "house", "table", "cube"])
def test_a_smaller_and_blurred_result_has_one_front(name):
    images, masks = (x.float() for x in seen(name, 45))
    turned = torch.cat((images - 0.5, masks[:, None]), dim=1)
    small = F.pad(F.interpolate(turned, size=(60, 60), mode="area"), (2, 2, 3, 1))
    images, masks = small[:, :3] + 0.5, small[:, 3] > 0.5
    assert facing(images, masks, name, "green").janus is False
    images = F.avg_pool2d(images, 5, 1, 2, count_include_pad=False)
    assert facing(images, masks, name, "green").janus is False


@pytest.mark.parametrize("name", ["mug", "chair", "snowman", "house"])
def test_a_second_front_shows_in_a_smaller_result_too(name):
    images, masks = seen(name, 0)
    turned = torch.cat((images - 0.5, masks[:, None].float()), dim=1)
    turned[4] = turned[0]
    small = F.pad(F.interpolate(turned, size=(60, 60), mode="area"), (2, 2, 3, 1))
    assert facing(small[:, :3] + 0.5, small[:, 3] > 0.5, name, "green").janus


def test_the_same_from_all_sides_is_janus():
    images, coverage = fixed_views("cylinder", "green")
    assert facing(images, coverage[:, 0] > 0.5, "mug", "green").janus


def test_an_empty_result_is_judged_too():
    images = torch.full((8, 3, 64, 64), 0.5)
    assert facing(images, torch.zeros(8, 64, 64, dtype=torch.bool), "mug", "green").janus
