"""The official code's configs/test_nerf.yaml, which users of the fork bring along.

Of the file we keep facts alone: its keys, the types of their values, the registered names. With
ASD_OFFICIAL_PATH (a checkout of github.com/2y7c3/ASD) the facts are read again and it trains.
"""

import json
import logging
import os
from pathlib import Path

import pytest
from published import SIZES, of_file, require_accepted

from threestudio_asd.cli.main import main
from threestudio_asd.tiny.random_sd import write_random_sd

FACTS = Path(__file__).parent / "references/official_nerf_yaml.json"


def test_every_key_and_type_of_it_is_accepted():
    known = json.loads(FACTS.read_text())
    require_accepted(known)
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
        short = ("trainer.max_steps=2", "trainer.val_check_interval=2", "data.batch_size=1")
        settings = (prompt, *models, *SIZES, *short)
        run = main(["launch", "--config", str(official), "--train", *settings])
    finally:
        logger.removeHandler(listener)
    assert run == 0
    assert (tmp_path / "outputs/nerf_quan/run/ckpts/last.ckpt").is_file()
    told = [message for message in messages if "official code" in message]
    assert len(told) == 2 and "share_noise=false" in told[0] and "=official" in told[1]
