"""Where an edit may change its original."""

import pytest
import torch
from PIL import Image

from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.systems.masks import covering, difference_mask, mask_of, prompts_mask
from threestudio_asd.teachers.analytic import GaussianTeacher
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny import model_folder
from threestudio_asd.tiny.evaluation import iou
from threestudio_asd.tiny.render import fixed_views


def test_a_cell_with_one_white_pixel_may_change():
    picture = torch.zeros(1, 3, 8, 8)
    picture[..., 5, 2] = 1.0
    expected = torch.zeros(1, 1, 4, 4)
    expected[..., 2, 1] = 1.0
    assert torch.equal(covering(picture, (4, 4)), expected)


def test_the_mask_is_where_predictions_differ_and_a_cell_around():
    difference = torch.full((2, 4, 8, 8), 0.1)
    difference[0, :, 2:5, 2:5] = 1.0
    difference[1, :, 5:8, 5:8] = 30.0  # each picture has a scale of its own
    mask = difference_mask(difference)
    expected = torch.zeros(2, 1, 8, 8)
    expected[0, :, 1:6, 1:6] = 1.0
    expected[1, :, 4:8, 4:8] = 1.0
    assert torch.equal(mask, expected)


def test_a_black_mask_is_told(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    teacher = GaussianTeacher({"": (torch.zeros(4, 8, 8), 1.0)}, DiscreteSchedule.scaled_linear())
    with pytest.raises(UserError, match="is black"):
        mask_of(tmp_path / "black.png", teacher, torch.zeros(1, 4, 4, 4), "a", "b")


def test_prompts_of_two_colours_differ_at_the_object():
    teacher = StableDiffusionTeacher.from_pretrained(model_folder("tiny-shapes"))
    images, coverage = (x[1:2] for x in fixed_views("cube", "red"))
    mask = prompts_mask(teacher, teacher.encode(images), "a red cube", "a blue cube")
    at_object = covering(coverage.expand(-1, 3, -1, -1), mask.shape[-2:]) > 0
    assert iou(mask[:, 0] > 0, at_object[:, 0]) > 0.6
    assert mask[at_object].mean() > 0.85
