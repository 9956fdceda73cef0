"""Edits in 2D: particles start as pictures, and DDS compares them with these."""

import numpy as np
import pytest
import torch
from PIL import Image

from threestudio_asd.errors import UserError
from threestudio_asd.guidance.inputs.latents import encoded_mean
from threestudio_asd.systems.originals import read_originals
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher

EDIT = (
    *("system.n_particles=2", "data.batch_size=2", "system.shape=null", "trainer.max_steps=1"),
    *("system.guidance.method=dds", "system.optimizer.name=SGD"),
)


DROP = ("system.optimizer.args",)  # Adam's


def paint(path, colour, size=80):
    Image.fromarray(np.full((size, size, 3), colour, dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "originals").mkdir()
    paint(tmp_path / "originals/b.png", (0, 0, 255))
    paint(tmp_path / "originals/a.png", (255, 0, 0))
    return tmp_path / "originals"


def test_originals_come_by_name_or_again_and_again(folder):
    red, blue = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1])
    both = read_originals(folder, 2, 16)
    assert both.shape == (2, 3, 16, 16)
    torch.testing.assert_close(both[:, :, 3, 3], torch.stack([red, blue]))
    three = read_originals(folder / "b.png", 3, 16)
    torch.testing.assert_close(three[:, :, 0, 0], blue.expand(3, 3))


def test_what_is_no_picture_is_told(folder):
    (folder / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"holds 3 files for 2 particles.*n_particles=3"):
        read_originals(folder, 2, 16)
    with pytest.raises(UserError, match=r"notes.txt' is no picture"):
        read_originals(folder, 3, 16)
    with pytest.raises(UserError, match=r"no picture at system\.originals"):
        read_originals(folder / "c.png", 1, 16)


def state(trial):
    return torch.load(trial / "ckpts/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("method", ["dds", "asd-pair"])
@pytest.mark.parametrize("other", [False, True])
def test_an_edit_moves_the_particles_by_what_the_prompts_differ(
    launch, trial, folder, other, method
):
    words = "a blue cube" if other else "a red mug"
    texts = f"system.guidance.texts.reference_cond={words}"
    options = (f"system.guidance.method={method}", f"system.originals={folder}")
    assert launch(*EDIT, texts, *options, drop=DROP) == 0
    found = state(trial)
    originals = found["originals"]
    assert originals.shape == (2, 4, 8, 8) and (originals[0] - originals[1]).abs().max() > 0
    moved = (found["particles.value"] - originals).abs().max()
    assert (moved > 1e-6) == other


def test_the_critic_of_a_pair_learns(launch, trial, folder):
    texts = "system.guidance.texts.reference_cond=a blue cube"
    options = ("system.guidance.method=asd-pair", f"system.originals={folder}")
    assert launch(*EDIT, texts, *options, "system.guidance.lora_n_steps=2", drop=DROP) == 0
    moved = [v for n, v in state(trial).items() if n.endswith("up.weight")]
    assert moved and all(v.abs().max() > 0 for v in moved)  # B starts at zero


def test_originals_are_encoded_without_a_draw(model):
    teacher = StableDiffusionTeacher.from_pretrained(model)
    pictures = torch.rand(2, 3, 64, 64)
    assert not torch.equal(teacher.encode(pictures), teacher.encode(pictures))
    mean = encoded_mean(teacher, pictures)
    assert torch.equal(mean, encoded_mean(teacher, pictures)) and teacher.posterior == "sample"
    drawn = torch.stack([teacher.encode(pictures) for _ in range(32)])
    error = (drawn.mean(0) - mean).abs().mean()
    assert error < 0.5 * (drawn[0] - mean).abs().mean()


def test_latents_of_another_shape_are_told(launch, capsys, folder):
    texts = "system.guidance.texts.reference_cond=a cup"
    shape = "system.shape=[4,16,16]"
    assert launch(*EDIT, shape, texts, f"system.originals={folder}", drop=DROP) == 2
    assert "system.shape must be [4, 8, 8]" in capsys.readouterr().err


def test_pixels_are_not_edited(launch, capsys, folder):
    texts = "system.guidance.texts.reference_cond=a cup"
    pixels = "system.parametrization=pixels"
    assert launch(*EDIT, texts, f"system.originals={folder}", pixels, drop=DROP) == 2
    assert "set system.parametrization=latents" in capsys.readouterr().err


def test_outside_of_a_mask_the_originals_stay(launch, trial, folder, tmp_path):
    mask = np.zeros((64, 64, 3), dtype=np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    texts = "system.guidance.texts.reference_cond=a blue cube"
    options = (f"system.originals={folder}", f"system.mask={tmp_path / 'mask.png'}")
    assert launch(*EDIT, texts, *options, drop=DROP) == 0
    found = state(trial)
    moved = (found["particles.value"] - found["originals"]).abs().amax(dim=(0, 1))
    assert moved[:, :4].max() == 0 and moved[:, 4:].min() > 0


def test_a_mask_without_originals_is_told(launch, capsys):
    texts = "system.guidance.texts.reference_cond=a cup"
    given = ("system.guidance.method=sds", "system.mask=auto")
    assert launch(*given, texts, "trainer.max_steps=1") == 2
    assert "set system.originals" in capsys.readouterr().err
