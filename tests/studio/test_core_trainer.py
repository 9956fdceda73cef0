"""The config's sections for Lightning's trainer and checkpoints, and what it raises."""

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from threestudio_asd.errors import ConfigKeyError, UserError
from threestudio_asd.studio.run.trainer import check_arguments, clear_errors


@pytest.mark.parametrize(
    ("section", "cls", "values", "message"),
    [
        ("trainer", pl.Trainer, {"max_steps": "abc"}, "max_steps = 'abc' has the wrong type.*int"),
        ("trainer", pl.Trainer, {"max_step": 3}, "did you mean max_steps"),
        ("trainer", pl.Trainer, {"callbacks": []}, "the launcher sets it"),
        ("trainer", pl.Trainer, {"log_every_n_steps": 1.5}, "log_every_n_steps"),
        ("checkpoint", ModelCheckpoint, {"save_topk": 1}, "did you mean save_top_k"),
        ("checkpoint", ModelCheckpoint, {"save_top_k": "all"}, "expects int"),
    ],
)
def test_bad_sections(section, cls, values, message):
    with pytest.raises(ConfigKeyError, match=message):
        check_arguments(section, cls, OmegaConf.create({section: values})[section])


def test_good_sections():
    trainer = {
        "max_steps": 5, "precision": "16-mixed", "val_check_interval": 200,
        "gradient_clip_val": 1, "check_val_every_n_epoch": None, "enable_progress_bar": True,
    }  # fmt: skip
    check_arguments("trainer", pl.Trainer, OmegaConf.create(trainer))
    checkpoint = {"save_last": True, "save_top_k": -1, "every_n_train_steps": 10}
    check_arguments("checkpoint", ModelCheckpoint, OmegaConf.create(checkpoint))


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (SystemExit(1), KeyboardInterrupt),
        (MisconfigurationException("no"), UserError),
        (torch.OutOfMemoryError("CUDA out of memory"), UserError),
        (ValueError("a fault of ours"), ValueError),
    ],
)
def test_clear_errors(raised, expected):
    with pytest.raises(expected), clear_errors():
        raise raised
