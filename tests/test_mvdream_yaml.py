"""The configs of threestudio-mvdream, which its users bring along.

Of the files we keep facts alone: their keys, the types of their values, the registered names. With
MVDREAM_PATH (a checkout of github.com/DSaurus/threestudio-mvdream) the facts are read again and the
files themselves train.
"""

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from published import SIZES, of_file, require_accepted

from threestudio_asd.cli.main import main
from threestudio_asd.studio.config.files import find_config
from threestudio_asd.tiny.random_sd import write_random_sd

FACTS = Path(__file__).parent / "references/mvdream_yaml.json"
NAMES = ("mvdream-sd21", "mvdream-sd21-shading")
# Beside SIZES and the model's folder: its pictures' side, and one scene at a time.
SMALL = (
    *("system.guidance.image_size=64", "data.batch_size=4"),
    *("trainer.max_steps=5", "trainer.val_check_interval=5"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_random_sd(tmp_path_factory.mktemp("views"), views=4)


@pytest.fixture
def train(model, tmp_path, monkeypatch):
    """Trains a config for five steps; returns the log, column -> values, and the trial."""
    monkeypatch.chdir(tmp_path)

    def run(config, *overrides):
        models = [
            f"system.{part}.pretrained_model_name_or_path={model}"
            for part in ("prompt_processor", "guidance")
        ]
        prompt = "system.prompt_processor.prompt=a red mug"
        settings = (*models, prompt, *SIZES, *SMALL, *overrides)
        assert main(["launch", "--config", str(config), "--train", *settings]) == 0
        (trial,) = tmp_path.glob("outputs/*/run")
        (file,) = trial.glob("csv_logs/*/metrics.csv")
        rows = list(csv.DictReader(file.open()))
        return {name: [float(r[name]) for r in rows if r[name]] for name in rows[0]}, trial

    return run


@pytest.mark.parametrize("name", NAMES)
def test_every_key_and_type_of_them_is_accepted(name):
    known = json.loads(FACTS.read_text())[name]
    require_accepted(known)
    assert known["data_type"] == "name mvdream-random-multiview-camera-datamodule"
    assert known["system_type"] == "name mvdream-system"
    named = {known["system"][f"{part}_type"] for part in ("guidance", "background")}
    assert named == {
        "name mvdream-multiview-diffusion-guidance",
        "name mvdream-neural-environment-map-background",
    }


@pytest.fixture
def published():
    """The folder of the files in a checkout."""
    checkout = os.environ.get("MVDREAM_PATH")
    if not checkout:
        pytest.skip("set MVDREAM_PATH to a checkout of threestudio-mvdream")
    return Path(checkout) / "configs"


@pytest.mark.parametrize("name", NAMES)
def test_the_facts_are_the_files(published, name):
    assert of_file(published / f"{name}.yaml") == json.loads(FACTS.read_text())[name]


@pytest.mark.parametrize("name", NAMES)
def test_they_train_on_another_model(published, train, name):
    log, trial = train(published / f"{name}.yaml")
    assert len(log["train/loss_sds"]) == 5 and all(0 < x < 1e9 for x in log["train/loss_sds"])
    assert (trial / "ckpts/last.ckpt").is_file()


@pytest.mark.parametrize("recon_loss", ["true", "false"])
def test_the_names_train_together(train, recon_loss, tmp_path):
    """On our own config of the same scene, with the system and the guidance of theirs."""
    cfg = OmegaConf.load(find_config("asd-mvdream.yaml"))
    cfg.system_type, cfg.system.guidance_type = (
        "mvdream-system",
        "mvdream-multiview-diffusion-guidance",
    )
    cfg.system.guidance = {"model_name": "sd-v2.1-base-4view", "recon_std_rescale": 0.5}
    del cfg.system.stage, cfg.system.optimizer.params.guidance
    cfg.system.loss = {"lambda_sds": 1.0, "lambda_orient": 0.0, "lambda_sparsity": 1.0}
    OmegaConf.save(cfg, tmp_path / "theirs.yaml")
    log, trial = train(tmp_path / "theirs.yaml", f"system.guidance.recon_loss={recon_loss}")
    for loss in ("train/loss_sds", "train/loss_sparsity"):
        assert len(log[loss]) == 5 and all(0 < x < 1e9 for x in log[loss])
    assert {path.name for path in (trial / "save").glob("it5-*")} >= {"it5-0.png", "it5-test.mp4"}
    # Nothing is learnt but the scene; no teacher is needed to look at it.
    state = torch.load(trial / "ckpts/last.ckpt", weights_only=True)["state_dict"]
    assert state and not [name for name in state if name.startswith("guidance")]
    command = ["launch", "--config", str(trial / "configs/parsed.yaml"), "--validate"]
    nowhere = "system.guidance.pretrained_model_name_or_path=/no/such/folder"
    assert main([*command, f"resume={trial / 'ckpts/last.ckpt'}", nowhere]) == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batch_size=6", "data.batch_size is 6, and 6 is no multiple of data.n_view=4"),
        ("system.visualize_samples=true", "visualize_samples is not implemented"),
        ("system.guidance.n_view=2", "system.guidance.n_view is 2, and the model takes 4"),
        ("system.guidance.image_size=256", "image_size is 256, and the model's pictures have 64"),
        ("system.guidance.camera_condition_type=mvp", "camera_condition_type 'mvp'"),
        ("system.loss.lambda_eikonal=1", "loss.lambda_eikonal needs the gradient of a signed"),
        ("data.n_view=2", "data.n_view to 4"),
    ],
)
def test_mistakes_are_told_in_one_line(model, tmp_path, monkeypatch, capsys, override, message):
    monkeypatch.chdir(tmp_path)
    cfg = OmegaConf.create(
        {
            **OmegaConf.to_container(OmegaConf.load(find_config("asd-mvdream.yaml"))),
            "system_type": "mvdream-system",
        }
    )
    cfg.system.guidance_type = "mvdream-multiview-diffusion-guidance"
    cfg.system.guidance = {"pretrained_model_name_or_path": str(model), "image_size": 64}
    cfg.system.prompt_processor.pretrained_model_name_or_path = str(model)
    cfg.system.prompt_processor.prompt = "a red mug"
    del cfg.system.stage, cfg.system.optimizer.params.guidance
    cfg.system.loss = {"lambda_sds": 1.0}
    OmegaConf.save(cfg, "theirs.yaml")
    settings = (*SIZES, "data.batch_size=4", "trainer.max_steps=1", override)
    assert main(["launch", "--config", "theirs.yaml", "--train", *settings]) == 2
    error = capsys.readouterr().err.partition("error: ")[2]
    assert message in error and "\n" not in error.strip()
