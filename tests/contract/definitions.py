"""Facts that a host states: names, config keys with their types and defaults, signatures."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from contract.hosts import Host
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer


def registry(host: Host) -> dict[str, Any]:
    """Every registered name."""
    return dict.fromkeys(host.registry, True)


def configs(host: Host, names: list[str]) -> dict[str, Any]:
    """Per entry and key: type and default, for the registered ``names`` and the base classes."""
    classes = {name: config_class(host.registry[name]) for name in names}
    return {name: fields(cls) for name, cls in (classes | dict(host.configs)).items()}


def config_class(entry: type) -> type:
    """The dataclass of an entry's keys: nested, or (data modules) the type of an instance's."""
    return entry.Config if hasattr(entry, "Config") else OmegaConf.get_type(entry({}).cfg)


def fields(config: type) -> dict[str, Any]:
    hints = typing.get_type_hints(config)
    return {
        field.name: {"type": type_name(hints[field.name]), "default": default(field)}
        for field in dataclasses.fields(config)
    }


def default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return "no default" if field.default_factory is dataclasses.MISSING else field.default_factory()


def type_name(hint: Any) -> str:
    """One spelling for ``Optional[List[int]]`` and ``list[int] | None``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(sorted(type_name(a) for a in arguments))
    if hint in (None, type(None)):
        return "null"
    name = getattr(origin or hint, "__name__", str(hint)).lower()
    return f"{name}[{', '.join(type_name(a) for a in arguments)}]" if arguments else name


def signatures(host: Host) -> dict[str, Any]:
    """Parameters of the ``save_*`` and path methods: their order, and their defaults by name."""
    wanted = ("save_", "get_save_", "set_save_", "convert_data")
    facts = {}
    for name, method in inspect.getmembers(host.saver, inspect.isfunction):
        if name.startswith(wanted):
            parameters = list(inspect.signature(method).parameters.values())[1:]
            facts[name] = {"order": [p.name for p in parameters]}
            facts[name] |= {p.name: _default(p.default) for p in parameters}
    return facts


def _default(value: Any) -> Any:
    return "required" if value is inspect.Parameter.empty else value


def resolver_names(host: Host) -> dict[str, Any]:
    return {n: True for n in BaseContainer._resolvers if "." not in n and n != "asd_model"}


RESOLVER_CASES = {
    "calc_exp_lr_decay_rate": ["0.1,100", "0.5,1"],
    "add": ["1,2", "1.5,2", "-3,1"],
    "sub": ["5,2", "0.5,2"],
    "mul": ["3,4", "0.5,3"],
    "div": ["3,4", "8,2"],
    "idiv": ["7,2", "-7,2", "7.5,2"],
    "basename": ["a/b/c.yaml", "c", "a/b/"],
    "rmspace": ["a red mug,_", "plain,-"],
    "tuple2": ["1", "0.25"],
    "gt0": ["0", "1", "-0.5"],
    "not": ["true", "false", "0"],
    "cmaxgt0": ["1", "0", "${zero}", "${rise}", "${short}", "${long}"],
    "cmaxgt0orcmaxgt0": ["0,0", "0,${rise}", "${zero},${zero}", "${zero},${long}"],
}
SCHEDULES = {
    "zero": [0, 0.0, 0.0, 10],
    "rise": [0, 0.0, 2.0, 10],
    "short": [1.0, 0.0, 5],
    "long": [0, -1.0, -1.0, 5, 3.0, 9],
}


def resolvers(host: Host) -> dict[str, Any]:
    """Results of ``${name:arguments}``."""
    return {
        name: {case: outcome(lambda n=name, c=case: _resolve(n, c)) for case in cases}
        for name, cases in RESOLVER_CASES.items()
    }


def _resolve(name: str, case: str) -> Any:
    value = OmegaConf.create({"x": f"${{{name}:{case}}}", **SCHEDULES}).x
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def outcome(call: Callable[[], Any]) -> Any:
    """The result, or that there is none."""
    try:
        return call()
    except Exception:  # which one is for the host to choose
        return "raises"


BUILTIN_ERRORS = (ValueError, KeyError, TypeError, AttributeError)


def errors(host: Host) -> dict[str, Any]:
    """Which built-in exceptions extensions may rely on, and the bases of a composed class."""

    @dataclasses.dataclass
    class Config:
        number: float = 1.0
        text: str = ""

    names = [f"contract-{letter}-{id(Config)}" for letter in "abc"]
    for name in names:
        host.register(name)(type(name[9], (), {}))
    first, second, third = names
    composed = host.find(f"{first}:{second},{third}")
    schedule = OmegaConf.create({"number": [0, 1.0, 0.5, 10]})
    return {
        "register-twice": raised(lambda: host.register(first)(Config)),
        "find-unknown": raised(lambda: host.find("contract-unknown")),
        "composed-bases": [cls.__name__ for cls in composed.__bases__],
        "unknown-key": raised(lambda: host.parse_structured(Config, {"nunber": 1.0})),
        "schedule-in-float": list(host.parse_structured(Config, schedule).number),
        "int-in-float": host.parse_structured(Config, {"number": 2}).number,
        "text-in-float": raised(lambda: host.parse_structured(Config, {"number": "abc"})),
        "number-in-text": host.parse_structured(Config, {"text": 2}).text,
    }


def raised(call: Callable[[], Any]) -> list[str]:
    """The built-in exceptions that catch what ``call`` raises."""
    try:
        call()
    except Exception as error:
        return [cls.__name__ for cls in BUILTIN_ERRORS if isinstance(error, cls)]
    return ["nothing"]
