"""2D particles that start as a one-step generator's pictures."""

import pytest
import torch

from threestudio_asd.errors import UserError
from threestudio_asd.generators.one_step import save_generator
from threestudio_asd.systems.asd_2d import Particles
from threestudio_asd.systems.starts import one_step_pictures
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.one_step import OneStepGenerator
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny.random_sd import write_random_sd

SMALL = ("system.n_particles=2", "data.batch_size=2", "system.shape=null")
STILL = ("trainer.max_steps=1", "system.optimizer.params.particles.lr=0.0")


def saved(model, folder):
    return save_generator(OneStepGenerator.of(FrozenUNet.load(model), 500), folder, model, "sida")


@pytest.fixture
def generator(model, tmp_path):
    return saved(model, tmp_path / "generator")


def value(trial):
    return torch.load(trial / "ckpts/last.ckpt", weights_only=True)["state_dict"]["particles.value"]


def test_they_are_what_the_generator_draws_of_the_prompt(generator, model):
    torch.manual_seed(3)
    found = one_step_pictures(
        str(generator), "a red mug", 2, StableDiffusionTeacher.from_pretrained(model)
    )
    torch.manual_seed(3)
    noise, own = torch.randn(2, 4, 8, 8), StableDiffusionTeacher.from_pretrained(generator)
    text = own.embed_text(["a red mug"] * 2).tokens
    with torch.no_grad():
        expected = OneStepGenerator.load(generator).generate(noise, text)
    torch.testing.assert_close(found, expected)
    torch.manual_seed(3)
    images = one_step_pictures(str(generator), "a red mug", 2, None)
    torch.testing.assert_close(images, own.decode(expected), atol=1e-5, rtol=0)
    torch.manual_seed(3)
    other = one_step_pictures(str(generator), "a blue cube", 2, None)
    assert not torch.allclose(images, other, atol=1e-3)


@pytest.mark.parametrize("kind", ["latents", "pixels"])
def test_a_training_starts_there(launch, trial, generator, kind):
    options = (f"system.init_from={generator}", f"system.parametrization={kind}", "seed=5")
    assert launch(*SMALL, *STILL, *options) == 0
    first = value(trial)
    # The same config without a start, and with another standard deviation that says nothing.
    assert launch(*SMALL, *STILL, *options, "system.init_std=9", "tag=again") == 0
    assert torch.equal(first, value(trial.parent / "again"))
    assert launch(*SMALL, *STILL, *options[1:], "tag=noise") == 0
    assert not torch.allclose(first, value(trial.parent / "noise"), atol=1e-2)
    assert not torch.allclose(first[0], first[1], atol=1e-3)  # noise of their own


def test_pixels_start_as_the_pictures():
    particles = Particles(1, (3, 4, 4), latents=False, init_std=1.0)
    images = torch.linspace(0, 1, 48).view(1, 3, 4, 4)
    particles.begin_as(images)
    shown = particles(torch.tensor([0]))
    torch.testing.assert_close(shown, images, atol=1 / 500, rtol=0)
    assert particles.value.isfinite().all()


def test_a_folder_that_cannot_be_is_told(model, tmp_path):
    teacher = StableDiffusionTeacher.from_pretrained(model)
    other = saved(write_random_sd(tmp_path / "other", seed=9), tmp_path / "g")
    cases = [
        ("gone", "There is no folder 'gone'"),
        (model, "holds no generator of one step"),
        (other, "has another autoencoder than the teacher"),
    ]
    for folder, message in cases:
        with pytest.raises(UserError, match=message) as error:
            one_step_pictures(str(folder), "a red mug", 1, teacher)
        assert "\n" not in str(error.value)
    assert one_step_pictures(str(other), "a red mug", 1, None).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("override", "message"),
    [("system.originals=x.png", "name one"), ("system.shape=[4,16,16]", "must be [4, 8, 8]")],
)
def test_mistakes_are_told_in_one_line(launch, generator, capsys, override, message):
    assert launch(*SMALL, f"system.init_from={generator}", override) == 2
    error = capsys.readouterr().err.partition("error: ")[2]
    assert message in error and "\n" not in error.strip()
