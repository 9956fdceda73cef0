"""Checks of a config against the classes it names, before any of them is built."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from threestudio_asd.errors import UserError
from threestudio_asd.studio.config.structured import parse_structured
from threestudio_asd.studio.registry import find


def check_system(cfg: Any, export: bool = False) -> None:
    """Check ``system_type``, the keys of ``system``, and each part's name and keys.

    A part is a pair of keys ``<part>_type``, a registered name, and ``<part>``, its config.

    Args:
        cfg: the experiment's config.
        export: check the exporter, too, which nothing else uses.

    Raises:
        UserError: an unknown name, an unknown key, or a value of the wrong type.
    """
    for _ in _parts(cfg, export):
        pass


def require_usable(cfg: Any) -> None:
    """Ask each part whether a training could use it: whether a model that it names is there, say.

    A class answers in a static method ``require_usable(cfg)``, if it has one, given its own config.

    Raises:
        UserError: a part could not be used.
    """
    for found, parsed in _parts(cfg):
        if hasattr(found, "require_usable"):
            found.require_usable(parsed)


def _parts(cfg: Any, export: bool = False) -> Iterator[tuple[type, Any]]:
    """The class and the checked config of each part that has a config."""
    if not cfg.system_type:
        raise UserError("the config has no system_type: name the system to train.")
    fields = find(cfg.system_type).Config
    system = parse_structured(fields, cfg.system)
    names = {f.name for f in dataclasses.fields(fields)}
    parts = sorted(n.removesuffix("_type") for n in names if n.endswith("_type"))
    for part in parts:
        name = system[f"{part}_type"]
        if part not in names or not name or (part == "exporter" and not export):
            continue
        found = find(name)
        if hasattr(found, "Config"):
            # From the experiment's config: messages then show the whole path of a key.
            yield found, parse_structured(found.Config, cfg.system.get(part, {}))
