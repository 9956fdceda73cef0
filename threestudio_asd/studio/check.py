"""Checks of a config against the classes it names, before any of them is built."""

import dataclasses
from typing import Any

from threestudio_asd.errors import UserError
from threestudio_asd.studio.config import parse_structured
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
        part_fields = getattr(find(name), "Config", None)
        if part_fields is not None:
            # From the experiment's config: messages then show the whole path of a key.
            parse_structured(part_fields, cfg.system.get(part, {}))
