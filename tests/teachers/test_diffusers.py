"""A Stable Diffusion model as a teacher: predictions, pictures, texts and precision."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.pretrained.files import content_hash
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny.random_sd import write_random_sd

SCRIPT = Path(__file__).parents[2] / "scripts/random_sd.py"


@pytest.fixture(scope="module")
def teacher(random_sd):
    return StableDiffusionTeacher.from_pretrained(random_sd, posterior="mean")


def inputs(teacher, size=8, batch=2):
    torch.manual_seed(0)
    condition = teacher.embed_text(["a red mug", "a blue cube"][:batch])
    return torch.randn(batch, 4, size, size), torch.tensor([20, 700])[:batch], condition


def test_it_reads_sizes_schedule_and_prediction_type(teacher, tmp_path):
    assert teacher.image_size == 64 and teacher.latent_shape == (4, 8, 8)
    assert teacher.prediction_type == "epsilon"
    expected = DiscreteSchedule.scaled_linear().alphas_cumprod
    torch.testing.assert_close(teacher.schedule.alphas_cumprod, expected)
    other = write_random_sd(tmp_path, "v_prediction", sample_size=4, scheduler="DDPMScheduler")
    v = StableDiffusionTeacher.from_pretrained(str(other))
    assert v.prediction_type == "v_prediction" and v.image_size == 32
    x_t, t, condition = inputs(v, size=4)
    with torch.no_grad():
        prediction = v.unet(x_t, t, encoder_hidden_states=condition.tokens).sample
        expected = v.schedule.sigma(t, x_t) * x_t + v.schedule.alpha(t, x_t) * prediction
        torch.testing.assert_close(v.epsilon(x_t, t, condition), expected)


def test_nothing_of_it_is_trainable(teacher):
    for module in (teacher.unet, teacher.vae):
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
    holder = torch.nn.Module()
    holder.teacher = teacher
    assert not holder.state_dict() and not list(holder.parameters())


def test_many_conditions_take_one_call_and_equal_separate_ones(teacher):
    x_t, t, condition = inputs(teacher)
    conditions = teacher.embed_text([""] * 2), condition, teacher.embed_text(["a cone"] * 2)
    calls = []
    hook = teacher.unet.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        together = Condition.concatenate(conditions)
        many = teacher.epsilon(x_t.repeat(3, 1, 1, 1), t.repeat(3), together).split(2)
        assert len(calls) == 1
        for got, one in zip(many, conditions, strict=True):
            torch.testing.assert_close(got, teacher.epsilon(x_t, t, one), rtol=1e-5, atol=1e-5)
    hook.remove()


def test_other_sizes(teacher):
    for height, width in ((24, 40), (128, 64)):
        images = torch.rand(1, 3, height, width)
        latents = teacher.encode(images)
        assert latents.shape == (1, 4, height // 8, width // 8)
        _, t, condition = inputs(teacher, batch=1)
        assert teacher.epsilon(latents, t, condition).shape == latents.shape
        assert teacher.decode(latents).shape == images.shape
    with pytest.raises(UserError, match="multiples of 8"):
        teacher.encode(torch.rand(1, 3, 30, 64))


def test_encoding_is_differentiable_and_scaled(teacher):
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    latents = teacher.encode(images)
    mean = teacher.vae.encode(2 * images - 1).latent_dist.mean
    torch.testing.assert_close(latents, 0.18215 * mean)
    push = torch.randn_like(latents)
    (gradient,) = torch.autograd.grad((push * latents).sum(), images)
    direction = torch.randn_like(images) / images.numel() ** 0.5
    with torch.no_grad():
        step = teacher.encode(images + 0.05 * direction) - teacher.encode(images - 0.05 * direction)
    numeric = (push * step).sum() / 0.1
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=2e-2, atol=1e-4)


def test_the_posterior_is_sampled_unless_asked_for_its_mean(random_sd, teacher):
    sampling = StableDiffusionTeacher.from_pretrained(random_sd)
    images = torch.rand(1, 3, 64, 64)
    torch.manual_seed(1)
    assert not torch.equal(sampling.encode(images), sampling.encode(images))
    assert torch.equal(teacher.encode(images), teacher.encode(images))


def test_decoded_images_lie_in_the_unit_range(teacher):
    images = teacher.decode(30 * torch.randn(2, 4, 8, 8))
    assert images.min() >= 0 and images.max() <= 1


@pytest.mark.parametrize("dtype", ["bf16", "fp16", torch.bfloat16])
def test_half_precision_has_no_nan_and_single_precision_borders(random_sd, teacher, dtype):
    half = StableDiffusionTeacher.from_pretrained(random_sd, dtype=dtype, posterior="mean")
    assert half.unet.dtype in (torch.bfloat16, torch.float16)
    assert half.vae.dtype == (torch.float32 if dtype == "fp16" else torch.bfloat16)
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    latents = half.encode(images)
    x_t, t, condition = inputs(half)
    results = {
        "epsilon": (half.epsilon(x_t, t, condition), teacher.epsilon(x_t, t, condition)),
        "latents": (latents, teacher.encode(images)),
        "images": (half.decode(x_t), teacher.decode(x_t)),
    }
    for got, expected in results.values():
        assert got.dtype == torch.float32 and got.isfinite().all()
        torch.testing.assert_close(got, expected, rtol=0.1, atol=0.05)
    (gradient,) = torch.autograd.grad(latents.sum(), images)
    assert gradient.isfinite().all()


def test_autocast_does_not_reach_the_networks(teacher):
    x_t, t, condition = inputs(teacher)
    with torch.no_grad():
        expected = teacher.epsilon(x_t, t, condition)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(teacher.epsilon(x_t, t, condition), expected)


def test_text_embeddings(teacher):
    both = teacher.embed_text(["a red mug", ""])
    assert both.tokens.shape == (2, 77, 24) and both.tokens.dtype == torch.float32
    torch.testing.assert_close(both[1:].tokens, teacher.embed_text([""]).tokens)
    teacher.embed_text(["word " * 200])  # what does not fit is cut off


def test_an_unknown_precision_names_the_known(random_sd):
    with pytest.raises(UserError, match="fp32, bf16, fp16"):
        StableDiffusionTeacher.from_pretrained(random_sd, dtype="fp8")


def test_the_model_loads_as_a_stable_diffusion_pipeline(random_sd, teacher):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(random_sd, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    (image,) = pipeline("a red mug", num_inference_steps=1).images
    assert image.size == (64, 64)
    assert pipeline.tokenizer.tokenize("a red mug!") == ["a</w>", "red</w>", "mug</w>", "!</w>"]
    embedding, _ = pipeline.encode_prompt("a red mug", "cpu", 1, False)
    torch.testing.assert_close(embedding, teacher.embed_text(["a red mug"]).tokens)


def test_random_models_follow_the_seed(random_sd, tmp_path):
    again = write_random_sd(tmp_path / "again")
    other = write_random_sd(tmp_path / "other", seed=1)
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    assert content_hash(random_sd, parts) == content_hash(again, parts)
    assert content_hash(random_sd, ("unet",)) != content_hash(other, ("unet",))
    with pytest.raises(UserError, match="prediction"):
        write_random_sd(tmp_path, prediction_type="noise")


def test_the_script_writes_what_was_asked(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    arguments = [str(folder), "--prediction-type", "v_prediction", "--sample-size", "4"]
    monkeypatch.setattr(sys, "argv", ["random_sd.py", *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    teacher = StableDiffusionTeacher.from_pretrained(folder)
    assert (teacher.prediction_type, teacher.image_size) == ("v_prediction", 32)
