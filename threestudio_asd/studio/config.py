"""Typed configs: YAML plus command line to dataclasses, with threestudio's keys and resolvers."""

import dataclasses
import os
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    InterpolationToMissingValueError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)
from yaml import YAMLError

from threestudio_asd.errors import ConfigKeyError, UserError
from threestudio_asd.studio.schedule import C_max, is_schedule


def register_resolver(name: str, function: Callable[..., Any]) -> None:
    """Make ``${name:...}`` call ``function`` in configs; a second registration changes nothing."""
    if not OmegaConf.has_resolver(name):
        # register_resolver is OmegaConf 2.4's name for it.
        register = getattr(OmegaConf, "register_resolver", None) or OmegaConf.register_new_resolver
        register(name, function)


register_resolver("calc_exp_lr_decay_rate", lambda factor, n: factor ** (1.0 / n))
register_resolver("add", lambda a, b: a + b)
register_resolver("sub", lambda a, b: a - b)
register_resolver("mul", lambda a, b: a * b)
register_resolver("div", lambda a, b: a / b)
register_resolver("idiv", lambda a, b: a // b)
register_resolver("basename", lambda path: os.path.basename(path))
register_resolver("rmspace", lambda text, sub: str(text).replace(" ", sub))
register_resolver("tuple2", lambda value: [float(value), float(value)])
register_resolver("gt0", lambda value: value > 0)
register_resolver("not", lambda value: not value)
register_resolver("cmaxgt0", lambda value: C_max(value) > 0)
register_resolver("cmaxgt0orcmaxgt0", lambda a, b: C_max(a) > 0 or C_max(b) > 0)


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
        # A resumed trial's own config carries its timestamp, so its folder is found again.
        if self.timestamp is None:
            self.timestamp = datetime.now().strftime("@%Y%m%d-%H%M%S") if self.use_timestamp else ""
        self.trial_name = f"{self.tag}{self.timestamp}"
        self.exp_dir = os.path.join(self.exp_root_dir, self.name)
        self.trial_dir = os.path.join(self.exp_dir, self.trial_name)


def parse_structured(fields: type, cfg: Any = None) -> Any:
    """``cfg`` as an instance of the dataclass ``fields``, checked against its types.

    A list that is a schedule (see :func:`threestudio_asd.studio.schedule.C`) passes wherever a
    number is expected.

    Args:
        cfg: a mapping (``DictConfig`` or dict), or None for the defaults.

    Returns:
        A structured ``DictConfig``: it has the dataclass's attributes.

    Raises:
        ConfigKeyError: a key that ``fields`` lacks, or a value of the wrong type.
    """
    if not isinstance(cfg, DictConfig):
        cfg = OmegaConf.create({} if cfg is None else dict(cfg))
    hints = typing.get_type_hints(fields)
    known = [f.name for f in dataclasses.fields(fields) if f.init]
    for key in cfg:
        if key not in known:
            raise ConfigKeyError(unknown_key(full_key(cfg, key), key, known, owner(fields)))
    values = {key: _value(cfg, key, hints[key]) for key in cfg}
    try:
        return OmegaConf.structured(fields(**values))
    except OmegaConfBaseException as error:
        key = (error.full_key or error.key or "").split(".")[0].split("[")[0]
        if key not in values:
            raise ConfigKeyError(f"{owner(fields)}: {first_line(error)}") from error
        raise ConfigKeyError(
            wrong_type(full_key(cfg, key), values[key], type_name(hints[key]), owner(fields))
        ) from error


def load_config(
    *yamls: str | os.PathLike,
    cli_args: Iterable[str] = (),
    from_string: bool = False,
    **overrides: Any,
) -> Any:
    """Read and merge YAML files, then ``key=value`` arguments, then ``overrides``.

    Args:
        yamls: paths, or with ``from_string`` the YAML text itself.

    Returns:
        A structured :class:`ExperimentConfig`; every interpolation is resolved.

    Raises:
        UserError: unreadable or malformed YAML, a value still missing (``???``), an unresolvable
            interpolation, or an unknown key.
    """
    parts = [OmegaConf.create(str(y)) if from_string else _read_yaml(Path(y)) for y in yamls]
    try:
        cfg = OmegaConf.merge(*parts, _from_cli(cli_args), overrides)
    except OmegaConfBaseException as error:
        raise UserError(
            f"the config and its overrides do not merge: {first_line(error)}"
        ) from error
    try:
        _require_values(cfg)
        OmegaConf.resolve(cfg)
    except (OmegaConfBaseException, ArithmeticError) as error:
        raise UserError(_unresolved(error)) from error
    return parse_structured(ExperimentConfig, cfg)


def config_to_primitive(config: Any, resolve: bool = True) -> Any:
    """``config`` as plain dicts, lists and scalars."""
    return OmegaConf.to_container(config, resolve=resolve)


def dump_config(path: str | os.PathLike, config: Any) -> None:
    """Write ``config`` as YAML."""
    OmegaConf.save(config=config, f=path)


def unknown_key(full: str, key: Any, known: Iterable[str], where: str) -> str:
    """The message for a key that nothing reads."""
    known = list(known)
    near = get_close_matches(str(key), known, n=1, cutoff=0.5)
    if near:
        return f"unknown config key {full}: did you mean {near[0]}? ({where})"
    listed = ", ".join(known) if known else "none"
    return f"unknown config key {full}: {where} has the keys {listed}."


def wrong_type(full: str, value: Any, expected: str, where: str) -> str:
    """The message for a value of the wrong type."""
    shown = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return f"config key {full} = {shown!r} has the wrong type: {where} expects {expected}."


def owner(fields: type) -> str:
    """How a message names the class whose ``Config`` is ``fields``."""
    return fields.__qualname__.split("<locals>.")[-1]


def full_key(cfg: DictConfig, key: Any) -> str:
    """Dotted path of ``key`` from the root of the config that ``cfg`` belongs to."""
    return cfg._get_full_key(key)


def first_line(error: BaseException) -> str:
    """The part of a library's message that a person needs."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def type_name(hint: Any) -> str:
    """A type annotation as a person would write it in a config."""
    members = _members(hint)
    names = ["null" if m is type(None) else getattr(m, "__name__", str(m)) for m in members]
    if len(members) == 1 and typing.get_args(hint):
        return str(hint).replace("typing.", "")
    return " or ".join(names)


def _members(hint: Any) -> list[Any]:
    """The alternatives of a Union, or the type itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [m for arg in typing.get_args(hint) for m in _members(arg)]
    return [hint]


def _value(cfg: DictConfig, key: Any, hint: Any) -> Any:
    """The value of ``key``, in the form that lets OmegaConf check its type."""
    if OmegaConf.is_missing(cfg, key):
        raise UserError(_missing(full_key(cfg, key)))
    try:
        value = cfg[key]
    except OmegaConfBaseException as error:
        raise UserError(_unresolved(error)) from error
    members = _members(hint)
    if isinstance(value, ListConfig) and is_schedule(value) and {int, float} & set(members):
        return value  # OmegaConf leaves a node alone: this is how a schedule enters a float field
    if isinstance(value, ListConfig | DictConfig) and Any not in members:
        return OmegaConf.to_container(value, resolve=True)
    return value


def _read_yaml(path: Path) -> Any:
    try:
        cfg = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the config {path}: {error}") from error
    except YAMLError as error:
        place = " ".join(str(error).split())
        raise UserError(f"the config {path} is not valid YAML: {place}") from error
    if not isinstance(cfg, DictConfig):
        raise UserError(f"the config {path} must be a mapping of keys to values.")
    return cfg


def _from_cli(arguments: Iterable[str]) -> DictConfig:
    arguments = list(arguments)
    for argument in arguments:
        if argument.startswith("-") or "=" not in argument:
            raise UserError(
                f'"{argument}" is neither an option nor key=value;'
                ' quote values with spaces: key="a value".'
            )
    try:
        return OmegaConf.from_cli(arguments)
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"a key=value argument cannot be read: {first_line(error)}") from error


def _require_values(cfg: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(_missing(missing[0]))


def _missing(key: str) -> str:
    return f'the config leaves {key} open: pass {key}="..." on the command line.'


def _unresolved(error: BaseException) -> str:
    where = getattr(error, "full_key", None)
    prefix = f"config key {where}: " if where else "the config: "
    if isinstance(error, InterpolationToMissingValueError):
        return f"{prefix}it refers to a value that is left open ({first_line(error)})."
    if isinstance(error, UnsupportedInterpolationType):
        return f"{prefix}{first_line(error)} (is the extension that registers it in custom/?)"
    return f"{prefix}{first_line(error)}"
