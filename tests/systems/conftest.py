"""``launch`` with a tiny model of random weights."""

import csv
from importlib import import_module

import pytest
from omegaconf import OmegaConf

from threestudio_asd.cli.main import main
from threestudio_asd.critics.base import CRITICS
from threestudio_asd.distill import CRITIC_OBJECTIVES, METHODS, NOISINGS, SOURCES, TARGETS
from threestudio_asd.studio.config.files import find_config
from threestudio_asd.teachers.base import TEACHERS
from threestudio_asd.tiny.random_sd import write_random_sd


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return write_random_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def launch(model, tmp_path, monkeypatch):
    """Runs a shipped config on the tiny model in an empty folder; returns the exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides, config="asd-2d.yaml", drop=()):
        cfg = OmegaConf.load(find_config(config))
        for part in ("prompt_processor", "guidance"):
            cfg.system[part].pretrained_model_name_or_path = str(model)
        for key in drop:
            parent, _, leaf = key.rpartition(".")
            del OmegaConf.select(cfg, parent)[leaf]
        OmegaConf.save(cfg, tmp_path / "test.yaml")
        fixed = ("name=test", "tag=run", "use_timestamp=false", "trainer.max_steps=2")
        prompt = "system.prompt_processor.prompt=a red mug"
        config = str(tmp_path / "test.yaml")
        return main(["launch", "--config", config, "--train", *fixed, prompt, *overrides])

    return run


@pytest.fixture
def trial(tmp_path):
    return tmp_path / "outputs/test/run"


@pytest.fixture
def logged(trial):
    """Reads the CSV log of the run: column -> values, in order."""

    def read():
        (file,) = trial.glob("csv_logs/*/metrics.csv")
        rows = list(csv.DictReader(file.open()))
        return {name: [float(r[name]) for r in rows if r[name]] for name in rows[0]}

    return read


@pytest.fixture
def forget_methods(monkeypatch):
    """Undo what a test registers, not what the package does."""
    import_module("threestudio_asd.guidance")
    for registry in (CRITIC_OBJECTIVES, CRITICS, METHODS, NOISINGS, SOURCES, TARGETS, TEACHERS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
