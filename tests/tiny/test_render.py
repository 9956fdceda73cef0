import math

import pytest
import torch

from threestudio_asd.tiny.render import fixed_views, render
from threestudio_asd.tiny.scenes import COLORS


def one(value):
    return torch.tensor([float(value)])


def view(name, shade="red", azimuth=0.0, elevation=0.0, **kwargs):
    background = torch.full((1, 3), 0.5)
    return render(
        name, shade, one(azimuth), one(elevation), one(2.5), one(45.0), background, **kwargs
    )


def test_azimuth_zero_looks_from_plus_x_and_z_is_up():
    """A sphere's normals: +x in the middle, +y at the right of the picture, +z at its top."""
    normals = 2 * view("sphere", normal_map=True)[0][0] - 1
    assert normals[:, 32, 32].argmax() == 0
    assert normals[1, 32, 50] > 0.5 > -0.5 > normals[1, 32, 14]
    assert normals[2, 14, 32] > 0.5 > -0.5 > normals[2, 50, 32]


def test_a_sphere_covers_its_analytic_disc():
    _, coverage = view("sphere", supersample=4)
    # A sphere of radius r at distance d spans a disc of tan(asin(r/d)) in the image plane.
    radius = math.tan(math.asin(0.75 / 2.5)) / math.tan(math.radians(22.5)) * 32
    assert coverage.sum().item() == pytest.approx(math.pi * radius**2, rel=0.01)


def test_the_mugs_handle_is_on_the_right_of_the_front_view_and_the_left_of_the_back_view():
    def overhang(azimuth):
        """How much further the object reaches to the right than to the left, in pixels."""
        covered = torch.nonzero(view("mug", azimuth=azimuth)[1][0, 0].sum(0) > 0)
        return (covered.max() + covered.min() - 63).item()

    assert overhang(0) > 2 and overhang(180) < -2


def test_normal_maps_follow_the_rasterisers_convention():
    image, coverage = view("sphere", normal_map=True)
    assert image[:, :, 0, 0].abs().max() == 0  # black background
    middle = image[0, :, 32, 32]
    torch.testing.assert_close(middle, torch.tensor([1.0, 0.5, 0.5]), atol=0.03, rtol=0)
    assert coverage[0, 0, 32, 32] == 1


def test_fixed_views_are_eight_turns_on_grey():
    images, coverage = fixed_views("cube", "blue")
    assert images.shape == (8, 3, 64, 64) and coverage.shape == (8, 1, 64, 64)
    torch.testing.assert_close(images[:, :, 0, 0], torch.full((8, 3), 0.5))
    # A cube looks alike after a quarter turn.
    torch.testing.assert_close(images[0], images[2], atol=0.02, rtol=0)
    middle = images[0, :, 36, 32]
    assert middle.argmax() == 2 and COLORS["blue"][2] == max(COLORS["blue"])
