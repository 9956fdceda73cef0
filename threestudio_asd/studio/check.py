"""Checks of a config against the classes it names, before any of them is built."""

import dataclasses
from typing import Any

from threestudio_asd.errors import UserError
from threestudio_asd.studio.config import parse_structured
from threestudio_asd.studio.registry import find


def check_system(cfg: Any, export: bool = False, train: bool = False) -> None:
    """Check ``system_type``, the keys of ``system``, and each part's name and keys.

    A part is a pair of keys ``<part>_type``, a registered name, and ``<part>``, its config. A class
    may have a static method ``require_usable(cfg)`` that raises UserError for what a training with
    its config ``cfg`` would only find out later: a model that is not there, say.

    Args:
        cfg: the experiment's config.
        export: check the exporter, too, which nothing else uses.
        train: ask ``require_usable``, too.

    Raises:
        UserError: an unknown name, an unknown key, or a value of the wrong type.
    """
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
            parsed = parse_structured(found.Config, cfg.system.get(part, {}))
            if train and hasattr(found, "require_usable"):
                found.require_usable(parsed)
