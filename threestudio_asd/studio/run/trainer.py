"""Lightning's Trainer from the config's ``trainer`` and ``checkpoint`` sections."""

import inspect
import os
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from threestudio_asd import log
from threestudio_asd.errors import ConfigKeyError, UserError
from threestudio_asd.stop import Stopped
from threestudio_asd.studio.checkpoint.store import load_checkpoint, save_atomically
from threestudio_asd.studio.config.structured import (
    config_to_primitive,
    first_line,
    full_key,
    type_members,
    type_name,
    unknown_key,
    wrong_type,
)

_LAUNCH_SETS = {
    "trainer": {"self", "accelerator", "devices", "callbacks", "logger", "plugins", "num_nodes"},
    "checkpoint": {"self", "dirpath"},
}
_CHECKED = (int, float, bool, str, list, dict, type(None))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints through :mod:`threestudio_asd.studio.checkpoint.store`."""

    @rank_zero_only
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None
    ) -> None:
        save_atomically(checkpoint, path)

    def load_checkpoint(
        self,
        path: str | os.PathLike,
        map_location: Any = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        # Lightning reads the version even where nothing but weights is needed.
        return {"pytorch-lightning_version": pl.__version__, **load_checkpoint(path)}


def check_arguments(section: str, cls: type, values: DictConfig) -> None:
    """Check that ``values`` are arguments that ``cls`` takes and that their types are right.

    Args:
        section: "trainer" or "checkpoint"; what the launcher itself sets is refused.

    Raises:
        ConfigKeyError: an argument that ``cls`` lacks, or of a type that it does not take.
    """
    reserved = _LAUNCH_SETS[section]
    known = [name for name in inspect.signature(cls.__init__).parameters if name not in reserved]
    hints = typing.get_type_hints(cls.__init__)
    for key, value in values.items():
        if key in reserved:
            raise ConfigKeyError(f"config key {section}.{key}: the launcher sets it; remove it.")
        if key not in known:
            raise ConfigKeyError(unknown_key(full_key(values, key), key, known, cls.__name__))
        if key in hints and not _fits(config_to_primitive(value), hints[key]):
            expected = type_name(hints[key])
            raise ConfigKeyError(wrong_type(full_key(values, key), value, expected, cls.__name__))


def make_trainer(
    arguments: Mapping[str, Any], callbacks: list[Any], loggers: list[Any], verbose: bool
) -> pl.Trainer:
    """A Trainer on the CUDA device if there is one, else on the CPU.

    Raises:
        UserError: Lightning refuses the arguments.
    """
    cuda = torch.cuda.is_available()
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    options = {"enable_model_summary": verbose, "enable_checkpointing": saves, **arguments}
    options["enable_progress_bar"] = False  # ours is among the callbacks
    if not cuda and str(options.get("precision")) in ("16", "16-mixed", "16-true"):
        log.info("trainer.precision=%s needs CUDA: computing in 32 bits.", options["precision"])
        options["precision"] = 32
    try:
        return pl.Trainer(
            callbacks=callbacks,
            logger=loggers or False,
            plugins=[AtomicCheckpointIO()],
            accelerator="gpu" if cuda else "cpu",
            devices=1,
            **{"inference_mode": False, **options},
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"the config's trainer section: {error}") from error


def make_checkpoint_callback(folder: str, arguments: Mapping[str, Any]) -> ModelCheckpoint:
    """Lightning's ModelCheckpoint in ``folder``.

    Raises:
        UserError: Lightning refuses the arguments.
    """
    try:
        # Without version numbers: a resumed trial replaces last.ckpt, no last-v1.ckpt appears.
        return ModelCheckpoint(dirpath=folder, **{"enable_version_counter": False, **arguments})
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"the config's checkpoint section: {error}") from error


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what Lightning and CUDA raise for a person's mistakes into clear errors.

    Raises:
        UserError: the trainer's settings contradict the data, or the device's memory is full.
        KeyboardInterrupt: Ctrl-C.
        Stopped: another signal.
    """
    try:
        yield
    except Stopped:
        raise
    except SystemExit as error:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from error
    except MisconfigurationException as error:
        raise UserError(f"the config's trainer section: {error}") from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the device's memory is full: lower data.width and data.height, data.batch_size or"
            f" system.renderer.num_samples_per_ray ({first_line(error)})"
        ) from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a config can be meant by ``hint``; unclear hints accept everything."""
    allowed: set[type] = set()
    for member in type_members(hint):
        if typing.get_origin(member) is typing.Literal:
            allowed |= {type(choice) for choice in typing.get_args(member)}
        else:
            allowed.add(typing.get_origin(member) or member)
    simple = {kind for kind in allowed if kind in _CHECKED}
    if not simple:
        return True
    if type(value) is int and float in simple:
        return True
    return type(value) in simple
