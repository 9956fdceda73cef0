"""Configs that others publish: facts about them, in place of the files themselves."""

import importlib
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint

from threestudio_asd.cli.main import PLUGINS
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


def of_file(file: Path) -> dict[str, Any]:
    """The facts of a file that leaves its prompt open."""
    cfg = OmegaConf.load(file)
    cfg.system.prompt_processor.prompt = "a red mug"
    return facts(OmegaConf.to_container(cfg, resolve=True))


def experiment(facts: Any) -> Any:
    """A config of the same keys and types, with values of our own."""
    if isinstance(facts, dict):
        return {key: experiment(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [experiment(item) for item in facts]
    return facts.removeprefix("name ") if facts.startswith("name ") else SAMPLES[facts]


def require_accepted(facts: dict[str, Any]) -> None:
    """Raises what the launcher would of a key, a type or a name."""
    for module in (*BUILTINS, *PLUGINS):
        importlib.import_module(module)
    cfg = read_config(OmegaConf.to_yaml(experiment(facts)), from_string=True)
    check_arguments("trainer", pl.Trainer, cfg.trainer)
    check_arguments("checkpoint", ModelCheckpoint, cfg.checkpoint)
    check_system(cfg)
    find(cfg.data_type)(cfg.data)
