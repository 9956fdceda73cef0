"""A background for the embedded world."""

import pytest
import torch

from threestudio_asd.errors import UserError
from threestudio_asd.systems.random_grey import RandomGreyBackground

DIRS = torch.nn.functional.normalize(torch.ones(6, 4, 5, 3), dim=-1)


def test_training_sees_one_grey_an_image_within_the_range():
    background = RandomGreyBackground({"range": [0.2, 0.4]}).train()
    seen = background(dirs=DIRS)
    assert seen.shape == DIRS.shape
    assert seen.amin() >= 0.2 and seen.amax() <= 0.4
    assert (seen == seen[:, :1, :1, :1]).all()
    assert len(set(seen[:, 0, 0, 0].tolist())) == 6
    assert not torch.equal(background(dirs=DIRS), seen)


def test_views_of_a_scene_share_their_grey():
    seen = RandomGreyBackground({"n_view": 3}).train()(dirs=DIRS)[:, 0, 0, 0]
    assert (seen.view(2, 3) == seen.view(2, 3)[:, :1]).all() and seen[0] != seen[3]
    with pytest.raises(UserError, match="n_view is 0; at least 1"):
        RandomGreyBackground({"n_view": 0})


def test_evaluation_sees_its_colour():
    background = RandomGreyBackground({"color": [0.1, 0.2, 0.3]}).eval()
    expected = torch.tensor([0.1, 0.2, 0.3]).expand_as(DIRS)
    torch.testing.assert_close(background(dirs=DIRS), expected)


@pytest.mark.parametrize("values", [[0.9, 0.1], [-0.1, 0.5], [0.5, 1.1]])
def test_a_wrong_range_is_told(values):
    with pytest.raises(UserError, match="give two greys"):
        RandomGreyBackground({"range": values})


def test_a_wrong_colour_is_told():
    with pytest.raises(UserError, match="3 values for n_output_dims=4"):
        RandomGreyBackground({"n_output_dims": 4})
