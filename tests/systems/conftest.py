"""``launch`` with a tiny model of random weights."""

import csv

import pytest
from omegaconf import OmegaConf

from threestudio_asd.cli.main import main
from threestudio_asd.studio.configfiles import find_config
from threestudio_asd.tiny.random_sd import write_random_sd


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return write_random_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def launch(model, tmp_path, monkeypatch):
    """Runs the shipped 2D config on the tiny model in an empty folder; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    cfg = OmegaConf.load(find_config("asd-2d.yaml"))
    for part in ("prompt_processor", "guidance"):
        cfg.system[part].pretrained_model_name_or_path = str(model)
    cfg.system.prompt_processor.prompt = "a red mug"
    cfg.system.shape = None
    cfg.system.n_particles = cfg.data.batch_size = 2
    cfg.system.optimizer.params.particles.lr = 0.5
    cfg.trainer.max_steps, cfg.trainer.val_check_interval = 2, 1
    cfg.tag = "run"
    cfg.use_timestamp = False

    def run(*overrides, drop=(), task="--train"):
        changed = OmegaConf.create(OmegaConf.to_container(cfg))
        for key in drop:
            parent, _, leaf = key.rpartition(".")
            del OmegaConf.select(changed, parent)[leaf]
        OmegaConf.save(changed, tmp_path / "test.yaml")
        return main(["launch", "--config", str(tmp_path / "test.yaml"), task, *overrides])

    return run


@pytest.fixture
def logged(tmp_path):
    """Reads the CSV log of the run: column -> values, in order."""

    def read():
        (file,) = tmp_path.glob("outputs/asd-2d/run/csv_logs/*/metrics.csv")
        rows = list(csv.DictReader(file.open()))
        return {name: [float(r[name]) for r in rows if r[name]] for name in rows[0]}

    return read


@pytest.fixture
def forget_methods(monkeypatch):
    """Undo what a test registers."""
    from threestudio_asd.distill import CRITIC_OBJECTIVES, METHODS, SOURCES, TARGETS

    for registry in (CRITIC_OBJECTIVES, METHODS, SOURCES, TARGETS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
