"""Configs that others publish: facts about them, in place of the files themselves."""

import csv
import importlib
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint

from threestudio_asd.cli.main import PLUGINS, main
from threestudio_asd.studio.config.check import check_system
from threestudio_asd.studio.config.experiment import read_config
from threestudio_asd.studio.registry import find
from threestudio_asd.studio.run.launch import BUILTINS
from threestudio_asd.studio.run.trainer import check_arguments

SAMPLES = {"bool": True, "int": 1, "float": 0.5, "str": "x", "NoneType": None}
# What keeps a few steps of a NeRF short on a CPU.
SIZES = (
    *("data.width=16", "data.height=16", "data.resolution_milestones=[]"),
    *("data.eval_width=16", "data.eval_height=16", "data.n_val_views=1", "data.n_test_views=2"),
    *("system.renderer.num_samples_per_ray=32", "use_timestamp=false", "tag=run"),
    "system.geometry.pos_encoding_config.log2_hashmap_size=12",
)


def facts(node: Any, key: str = "") -> Any:
    """The tree of keys with a type for each value; registered names in full."""
    if isinstance(node, dict):
        return {key: facts(value, key) for key, value in node.items()}
    if isinstance(node, list):
        return [facts(item) for item in node]
    registered = key.endswith("_type") and isinstance(node, str)
    return f"name {node}" if registered else type(node).__name__


def resolved(file: Path) -> dict[str, Any]:
    """The values of a file that leaves its prompt open."""
    cfg = OmegaConf.load(file)
    cfg.system.prompt_processor.prompt = "a red mug"
    return OmegaConf.to_container(cfg, resolve=True)


def of_file(file: Path) -> dict[str, Any]:
    """The facts of a file that leaves its prompt open."""
    return facts(resolved(file))


def experiment(facts: Any) -> Any:
    """A config of the same keys and types, with values of our own."""
    if isinstance(facts, dict):
        return {key: experiment(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [experiment(item) for item in facts]
    return facts.removeprefix("name ") if facts.startswith("name ") else SAMPLES[facts]


def require_accepted(facts: dict[str, Any]) -> None:
    """Raises what the launcher would of a key, a type or a name."""
    require_values_accepted(experiment(facts))


def require_values_accepted(values: dict[str, Any]) -> None:
    """The same of a config's own values."""
    for module in (*BUILTINS, *PLUGINS):
        importlib.import_module(module)
    cfg = read_config(OmegaConf.to_yaml(values), from_string=True)
    check_arguments("trainer", pl.Trainer, cfg.trainer)
    check_arguments("checkpoint", ModelCheckpoint, cfg.checkpoint)
    check_system(cfg)
    find(cfg.data_type)(cfg.data)


def trained(
    config: dict[str, Any], model: Path, *overrides: str
) -> tuple[dict[str, list[float]], Path]:
    """The log, column -> values, and the trial of a training in the current folder on ``model``,
    at ``SIZES`` but for ``overrides``."""
    OmegaConf.save(OmegaConf.create(config), "published.yaml")
    models = [
        f"system.{part}.pretrained_model_name_or_path={model}"
        for part in ("prompt_processor", "guidance")
    ]
    settings = (*models, *SIZES, *overrides)
    assert main(["launch", "--config", "published.yaml", "--train", *settings]) == 0
    (trial,) = Path.cwd().glob("outputs/*/run")
    return log_of(trial), trial


def log_of(trial: Path) -> dict[str, list[float]]:
    """Column -> values of a trial's CSV."""
    (file,) = trial.glob("csv_logs/*/metrics.csv")
    rows = list(csv.DictReader(file.open()))
    return {name: [float(r[name]) for r in rows if r[name]] for name in rows[0]}
