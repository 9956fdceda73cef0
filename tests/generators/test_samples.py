"""Many samples at a time: a teacher's are diffusers', a generator's do not depend on batches."""

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from threestudio_asd.errors import UserError
from threestudio_asd.generators import samples
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.one_step import OneStepGenerator
from threestudio_asd.tiny.random_sd import write_random_sd

PROMPTS = ["a red mug", "a blue cube", "a green tree, side view"]


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory):
    return write_random_sd(tmp_path_factory.mktemp("sd"), request.param)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_teachers_samples_are_those_of_diffusers(folder, scale):
    teacher = StableDiffusionTeacher.from_pretrained(folder)
    found = samples.teacher_latents(teacher, PROMPTS, scale, seed=2, steps=5, batch=2)
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    # As the embedded model's folder has it: the last step ends at the least noise there is.
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=False)
    pipe.set_progress_bar_config(disable=True)
    noise = samples.draw_noise(teacher.latent_shape, 3, seed=2)
    settings = {"num_inference_steps": 5, "guidance_scale": scale, "output_type": "latent"}
    expected = pipe(PROMPTS, latents=noise, **settings).images
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_they_are_drawn_once(folder, monkeypatch):
    teacher = StableDiffusionTeacher.from_pretrained(folder)
    first = samples.teacher_latents(teacher, PROMPTS, 1.0, seed=2, steps=2)
    asked = teacher.net.evaluated["rows"]
    assert torch.equal(first, samples.teacher_latents(teacher, PROMPTS, 1.0, seed=2, steps=2))
    assert teacher.net.evaluated["rows"] == asked == 3 * 2
    other = samples.teacher_latents(teacher, PROMPTS, 2.0, seed=2, steps=2)
    assert not torch.equal(first, other)
    assert teacher.net.evaluated["rows"] == asked + 2 * 3 * 2


def test_a_generator_starts_from_the_teachers_noise(folder):
    teacher = StableDiffusionTeacher.from_pretrained(folder)
    generator = OneStepGenerator.of(teacher.net)
    found = samples.generator_latents(generator, teacher, PROMPTS, 1, seed=2, batch=2)
    noise = samples.draw_noise(teacher.latent_shape, 3, seed=2)
    with torch.no_grad():
        expected = generator.generate(noise, teacher.embed_text(PROMPTS).tokens)
    torch.testing.assert_close(found, expected)


def test_a_sheet_has_rows():
    images = torch.rand(5, 3, 4, 6)
    with pytest.raises(ValueError):
        samples.sheet(images, 3)
    sheet = samples.sheet(images[:4], 2)
    assert sheet.size == (12, 8)
    assert sheet.getpixel((0, 4)) == tuple((images[2, :, 0, 0].double() * 255).int().tolist())


def test_a_number_of_steps_that_there_is_not():
    assert samples.ddim_times(1000, 25)[:2] == [961, 921]
    assert samples.ddim_times(1000, 25)[-2:] == [1, 0]
    for steps in (0, 1000):
        with pytest.raises(UserError, match=f"{steps} DDIM steps"):
            samples.ddim_times(1000, steps)
