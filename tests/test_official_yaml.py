"""The official code's configs/test_nerf.yaml, which users of the fork bring along.

Of the file we keep facts alone: its keys, the types of their values, the registered names. With
ASD_OFFICIAL_PATH (a checkout of github.com/2y7c3/ASD) the facts are read again and it trains.
"""

import importlib
import json
import logging
import os
from pathlib import Path

import pytest
import pytorch_lightning as pl
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint

from threestudio_asd.cli.main import PLUGINS, main
from threestudio_asd.studio.config.check import check_system
from threestudio_asd.studio.config.experiment import read_config
from threestudio_asd.studio.registry import find
from threestudio_asd.studio.run.launch import BUILTINS
from threestudio_asd.studio.run.trainer import check_arguments
from threestudio_asd.tiny.random_sd import write_random_sd

FACTS = Path(__file__).parent / "references/official_nerf_yaml.json"
SAMPLES = {"bool": True, "int": 1, "float": 0.5, "str": "x", "NoneType": None}
# What keeps two steps short on a CPU; nothing else of the file changes but model ids.
SIZES = (
    *("trainer.max_steps=2", "trainer.val_check_interval=2"),
    *("data.width=16", "data.height=16", "data.batch_size=1", "data.resolution_milestones=[]"),
    *("data.eval_width=16", "data.eval_height=16", "data.n_val_views=1", "data.n_test_views=2"),
    *("system.renderer.num_samples_per_ray=32", "use_timestamp=false", "tag=run"),
    "system.geometry.pos_encoding_config.log2_hashmap_size=12",
)


def facts(node, key=""):
    """The tree of keys with a type for each value; registered names in full."""
    if isinstance(node, dict):
        return {key: facts(value, key) for key, value in node.items()}
    if isinstance(node, list):
        return [facts(item) for item in node]
    registered = key.endswith("_type") and isinstance(node, str)
    return f"name {node}" if registered else type(node).__name__


def of_file(file):
    cfg = OmegaConf.load(file)
    cfg.system.prompt_processor.prompt = "a red mug"  # the file leaves it open
    return facts(OmegaConf.to_container(cfg, resolve=True))


def experiment(facts):
    """A config of the same keys and types, with values of our own."""
    if isinstance(facts, dict):
        return {key: experiment(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [experiment(item) for item in facts]
    return facts.removeprefix("name ") if facts.startswith("name ") else SAMPLES[facts]


def test_every_key_and_type_of_it_is_accepted():
    for module in (*BUILTINS, *PLUGINS):
        importlib.import_module(module)
    known = json.loads(FACTS.read_text())
    cfg = read_config(json.dumps(experiment(known)), from_string=True)
    check_arguments("trainer", pl.Trainer, cfg.trainer)
    check_arguments("checkpoint", ModelCheckpoint, cfg.checkpoint)
    check_system(cfg)
    find(cfg.data_type)(cfg.data)
    assert known["system_type"] == "name nerf-system-asd"
    assert known["system"]["guidance"]["max_step_percent"] == ["int", "float", "float", "int"]


@pytest.fixture
def official():
    """The file in a checkout of the official code."""
    checkout = os.environ.get("ASD_OFFICIAL_PATH")
    if not checkout:
        pytest.skip("set ASD_OFFICIAL_PATH to a checkout of the official code")
    return Path(checkout) / "configs/test_nerf.yaml"


def test_the_facts_are_the_files(official):
    assert of_file(official) == json.loads(FACTS.read_text())


def test_it_trains_on_other_models(official, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher = write_random_sd(tmp_path / "teacher")
    critic = write_random_sd(tmp_path / "critic", "v_prediction", seed=1)
    messages = []
    listener = logging.Handler()
    listener.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("threestudio_asd")
    logger.addHandler(listener)
    models = (
        f"system.prompt_processor.pretrained_model_name_or_path={teacher}",
        f"system.guidance.pretrained_model_name_or_path={teacher}",
        f"system.guidance.pretrained_model_name_or_path_lora={critic}",
    )
    prompt = "system.prompt_processor.prompt=a red mug"
    try:
        run = main(["launch", "--config", str(official), "--train", prompt, *models, *SIZES])
    finally:
        logger.removeHandler(listener)
    assert run == 0
    assert (tmp_path / "outputs/nerf_quan/run/ckpts/last.ckpt").is_file()
    told = [message for message in messages if "official code" in message]
    assert len(told) == 2 and "share_noise=false" in told[0] and "=official" in told[1]
