"""The published teacher of four views: it obeys its cameras, and draws what was asked for."""

from pathlib import Path

import pytest
import torch

from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny import edition, model_folder
from threestudio_asd.tiny.captions import caption
from threestudio_asd.tiny.dataset import COLOR_NAMES, OBJECT_NAMES, build_scenes
from threestudio_asd.tiny.judge import load_judge
from threestudio_asd.tiny.train.measure_views import obeyed, sample_views


@pytest.fixture(scope="module")
def teacher():
    return StableDiffusionTeacher.from_pretrained(model_folder("tiny-shapes-mv"))


def test_it_is_an_edition_of_its_own(teacher):
    folder = Path(model_folder("tiny-shapes-mv"))
    assert edition(folder) >= 1 and folder.name.startswith("tiny-shapes-mv-")
    assert Path(model_folder("tiny-shapes")).name.startswith("tiny-shapes-b")
    assert teacher.views_at_once == 4 and teacher.knows_cameras


@pytest.mark.slow
def test_it_obeys_its_cameras(teacher):
    """On few scenes; the model card has the figures of many."""
    scenes = build_scenes(8, 4, 77, [("chair", "red"), ("mug", "blue")], 0.0)
    wanted = [
        (OBJECT_NAMES[o], COLOR_NAMES[c])
        for o, c in zip(scenes.objects.tolist(), scenes.colors.tolist(), strict=True)
    ]
    images = sample_views(teacher, [caption(*pair, None, False) for pair in wanted], scenes.c2w)
    found = [
        obeyed(images[i], *pair, {key: value[i] for key, value in scenes.cameras.items()})
        for i, pair in enumerate(wanted)
    ]
    # One azimuth of eight is right by chance.
    assert torch.cat(found).float().mean() > 0.75
    named = load_judge().name(images.flatten(0, 1))
    asked = [pair for pair in wanted for _ in range(4)]
    assert sum(a == b for a, b in zip(named, asked, strict=True)) >= 30
