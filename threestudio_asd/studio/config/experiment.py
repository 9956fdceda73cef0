"""The config of an experiment: YAML files and command line, with threestudio's keys."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from threestudio_asd.errors import UserError
from threestudio_asd.studio import elsewhere
from threestudio_asd.studio.config.structured import (
    escape,
    missing_value,
    parse_structured,
    require_known,
    unresolved,
)
from threestudio_asd.studio.config.texts import Argument, readable, unquoted, with_texts
from threestudio_asd.studio.config.trials import folder_name


@dataclass
class ExperimentConfig:
    """The top level of a config. ``exp_dir``, ``trial_name`` and ``trial_dir`` are derived."""

    name: str = "default"
    description: str = ""
    tag: str = ""
    seed: int = 0
    use_timestamp: bool = True
    timestamp: str | None = None
    exp_root_dir: str = "outputs"

    exp_dir: str = "outputs/default"
    trial_name: str = "exp"
    trial_dir: str = "outputs/default/exp"
    n_gpus: int = 1
    # On a CPU, into how many pieces a step's batch is split, at most: as many cores help. Results
    # depend on it in their last digits, and not on the machine's number of cores.
    pieces: int = 2

    resume: str | None = None
    data_type: str = ""
    data: dict = field(default_factory=dict)
    system_type: str = ""
    system: dict = field(default_factory=dict)
    # Arguments of pytorch_lightning.Trainer and of its ModelCheckpoint.
    trainer: dict = field(default_factory=dict)
    checkpoint: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tag and not self.use_timestamp:
            raise UserError("a trial needs a folder name: set tag=..., or use_timestamp=true.")
        if isinstance(self.seed, int) and self.seed < 0:
            raise UserError(f"seed={self.seed} must not be negative.")
        if isinstance(self.pieces, int) and self.pieces < 1:
            raise UserError(f"pieces={self.pieces}: a batch has at least one piece.")
        # A resumed trial's own config carries its timestamp, so its folder is found again.
        if self.timestamp is None:
            self.timestamp = timestamp() if self.use_timestamp else ""
        self.trial_name = f"{folder_name(str(self.tag))}{self.timestamp}"
        self.exp_dir = os.path.join(str(self.exp_root_dir), str(self.name))
        self.trial_dir = os.path.join(self.exp_dir, self.trial_name)


def timestamp() -> str:
    """The present second, as trials' folders carry it."""
    return datetime.now().strftime("@%Y%m%d-%H%M%S")


def timestamps(first: str | None = None) -> Iterator[str]:
    """``first`` if there is one, then the present second, then the same with a number from 2 on."""
    if first is not None:
        yield first
    now = timestamp()
    if now != first:
        yield now
    for number in count(2):
        yield f"{now}-{number}"


def read_config(
    *yamls: str | os.PathLike,
    cli_args: Iterable[str] = (),
    from_string: bool = False,
    fields: type = ExperimentConfig,
    **overrides: Any,
) -> DictConfig:
    """Read and merge YAML files, then ``key=value`` arguments, then ``overrides``.

    Args:
        yamls: paths, or with ``from_string`` the YAML text itself.
        fields: The dataclass whose keys it has.

    Returns:
        The merged config with its interpolations still open; every value and key is there. Keys of
        classes that are registered by now have their types
        (:mod:`threestudio_asd.studio.config.texts`).

    Raises:
        UserError: unreadable or malformed YAML, a value that is missing (``???``), or an unknown
            top-level key.
    """
    sources = [_read_yaml(str(y) if from_string else Path(y)) for y in yamls]
    arguments = [Argument.parse(argument) for argument in cli_args]
    try:
        # Which keys are texts depends on the classes that the other keys name.
        draft = OmegaConf.merge(*(part for part, _ in sources), *readable(arguments), overrides)
        parts = [with_texts(part, written, draft, fields) for part, written in sources]
        cfg = OmegaConf.merge(*parts, *(a.typed(draft, fields) for a in arguments), overrides)
        missing = sorted(OmegaConf.missing_keys(cfg))
    except OmegaConfBaseException as error:
        raise UserError(unresolved(error)) from error
    if missing:
        # Filling the gap would be in vain where only threestudio has the parts.
        told = " ".join(filter(None, (missing_value(missing[0]), elsewhere.advice_for(cfg))))
        raise UserError(told)
    require_known(fields, cfg)
    return cfg


def resolve_config(cfg: DictConfig, fields: type = ExperimentConfig) -> Any:
    """Resolve every interpolation of :func:`read_config`'s result, check the top level's types.

    Returns:
        A structured config of the dataclass ``fields``.

    Raises:
        UserError: an interpolation that cannot be resolved, or a value of the wrong type.
    """
    try:
        values = OmegaConf.to_container(cfg, resolve=True)
    except (OmegaConfBaseException, ArithmeticError) as error:
        raise UserError(unresolved(error)) from error
    return parse_structured(fields, OmegaConf.create(escape(values)))


def load_config(
    *yamls: str | os.PathLike,
    cli_args: Iterable[str] = (),
    from_string: bool = False,
    **overrides: Any,
) -> Any:
    """:func:`read_config`, then :func:`resolve_config`."""
    cfg = read_config(*yamls, cli_args=cli_args, from_string=from_string, **overrides)
    return resolve_config(cfg)


def _read_yaml(source: str | Path) -> tuple[DictConfig, list[tuple[tuple[str, ...], str]]]:
    """The mapping in a file (a Path) or in YAML text, and its unquoted scalars as written."""
    where = f"the config {source}" if isinstance(source, Path) else "the config"
    try:
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        cfg, written = OmegaConf.create(text), unquoted(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {where}: {error}") from error
    except YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(cfg, DictConfig):
        raise UserError(f"{where} must be a mapping of keys to values.")
    return cfg, written
