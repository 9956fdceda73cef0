"""Typed configs: mappings to dataclasses, and the resolvers that configs may call."""

import dataclasses
import os
import re
import types
import typing
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationToMissingValueError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

from threestudio_asd.errors import ConfigKeyError, UserError
from threestudio_asd.studio.config.schedule import C_max, is_schedule


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


def parse_structured(fields: type, cfg: Any = None) -> Any:
    """``cfg`` as an instance of the dataclass ``fields``, checked against its types.

    A list that is a schedule (:func:`threestudio_asd.studio.config.schedule.C`) passes wherever
    a number is expected.

    Args:
        cfg: a mapping (``DictConfig`` or dict), or None for the defaults.

    Returns:
        A structured ``DictConfig``: it has the dataclass's attributes.

    Raises:
        ConfigKeyError: a key that ``fields`` lacks, or a value of the wrong type.
    """
    if not isinstance(cfg, DictConfig):
        cfg = OmegaConf.create({} if cfg is None else dict(cfg))
    require_known(fields, cfg)
    hints = typing.get_type_hints(fields)
    values = {key: _value(cfg, key, hints[key]) for key in cfg}
    try:
        return OmegaConf.structured(_instance(fields, values))
    except OmegaConfBaseException as error:
        key = (error.full_key or error.key or "").split(".")[0].split("[")[0]
        if key not in values:
            raise ConfigKeyError(f"{owner(fields)}: {first_line(error)}") from error
        raise ConfigKeyError(
            wrong_type(full_key(cfg, key), values[key], type_name(hints[key]), owner(fields))
        ) from error


def config_to_primitive(config: Any, resolve: bool = True) -> Any:
    """``config`` as plain dicts, lists and scalars."""
    return (
        OmegaConf.to_container(config, resolve=resolve) if OmegaConf.is_config(config) else config
    )


def escape(value: Any) -> Any:
    """``value`` for a config that is resolved once more: its texts come out as they are here."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    return [escape(item) for item in value] if isinstance(value, list | tuple) else value


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
    members = type_members(hint)
    names = ["null" if m is type(None) else getattr(m, "__name__", str(m)) for m in members]
    if len(members) == 1 and typing.get_args(hint):
        return str(hint).replace("typing.", "")
    return " or ".join(names)


def type_members(hint: Any) -> list[Any]:
    """The alternatives of a Union, or the type itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [m for arg in typing.get_args(hint) for m in type_members(arg)]
    return [hint]


def _instance(fields: type, values: dict[str, Any]) -> Any:
    """``fields(**values)``; run-time type checkers, which wrap ``__init__``, know no schedules."""
    instance = object.__new__(fields)
    for f in dataclasses.fields(fields):
        if f.name in values:
            value = values[f.name]
        elif f.default_factory is not dataclasses.MISSING:
            value = f.default_factory()
        elif f.default is not dataclasses.MISSING:
            value = f.default
        else:
            raise UserError(missing_value(f"{f.name} of {owner(fields)}"))
        object.__setattr__(instance, f.name, value)
    if hasattr(instance, "__post_init__"):
        instance.__post_init__()
    return instance


def _value(cfg: DictConfig, key: Any, hint: Any) -> Any:
    """The value of ``key``, in the form that lets OmegaConf check its type."""
    if OmegaConf.is_missing(cfg, key):
        raise UserError(missing_value(full_key(cfg, key)))
    try:
        value = cfg[key]
    except OmegaConfBaseException as error:
        raise UserError(unresolved(error)) from error
    if isinstance(value, DictConfig) and dataclasses.is_dataclass(hint):  # a section
        return OmegaConf.to_object(parse_structured(hint, value))
    members = type_members(hint)
    if isinstance(value, ListConfig) and is_schedule(value) and {int, float} & set(members):
        return value  # OmegaConf leaves a node alone: this is how a schedule enters a float field
    if isinstance(value, ListConfig | DictConfig) and Any not in members:
        return escape(OmegaConf.to_container(value, resolve=True))
    return escape(value)


def require_known(fields: type, cfg: DictConfig) -> None:
    """Raise :class:`ConfigKeyError` for a key of ``cfg`` that the dataclass ``fields`` lacks."""
    known = [f.name for f in dataclasses.fields(fields) if f.init]
    for key in cfg:
        if key not in known:
            raise ConfigKeyError(unknown_key(full_key(cfg, key), key, known, owner(fields)))


def missing_value(key: str) -> str:
    """The message for a value that the config leaves open (`???`)."""
    return f'the config leaves {key} open: pass {key}="..." on the command line.'


def unresolved(error: BaseException) -> str:
    """The message for an interpolation that OmegaConf cannot resolve."""
    where = getattr(error, "full_key", None)
    prefix = f"config key {where}: " if where else "the config: "
    origin: BaseException | None = error
    while origin is not None and not isinstance(origin, UserError):
        origin = origin.__cause__ or origin.__context__
    if origin is not None:  # a resolver's own message
        return f"{prefix}{origin}"
    if isinstance(error, InterpolationToMissingValueError):
        return f"{prefix}it refers to a value that is left open ({first_line(error)})."
    if isinstance(error, UnsupportedInterpolationType):
        return f"{prefix}{first_line(error)} (is the extension that registers it in custom/?)"
    if isinstance(error, InterpolationKeyError):
        return f"{prefix}{first_line(error)} (write \\${{ where the characters are meant)"
    return f"{prefix}{first_line(error)}"
