"""The geometry of an earlier trial, for a stage that starts from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.studio.checkpoint.store import (
    find_last_path,
    load_module_weights,
    require_compatible,
)
from threestudio_asd.studio.config.experiment import read_config
from threestudio_asd.studio.device import get_device
from threestudio_asd.studio.registry import find


def earlier_geometry(checkpoint: str, override: Mapping[str, Any]) -> Any:
    """The geometry that a checkpoint of either host holds, on the device, at its training step.

    Args:
        checkpoint: in the folder ``ckpts`` of a trial, whose ``configs/parsed.yaml`` names the
            geometry; may contain ``LAST``.
        override: keys of that geometry's config to replace, ``isosurface_threshold`` say.

    Raises:
        UserError: no such checkpoint or config, no geometry in it, or one that does not fit.
    """
    path = find_last_path(checkpoint)
    state, epoch, global_step = load_module_weights(path, module_name="geometry")
    config = Path(path).absolute().parent.parent / "configs" / "parsed.yaml"
    if not config.is_file():
        raise UserError(
            f"system.geometry_convert_from={checkpoint}: {config}, which says how the geometry was "
            "made, does not exist; name a checkpoint in its own trial's folder ckpts/."
        )
    system = read_config(config).get("system")
    name = system.get("geometry_type") if isinstance(system, DictConfig) else None
    if not name:
        raise UserError(
            f"system.geometry_convert_from={checkpoint}: its trial has no geometry (the config "
            f"{config} lacks system.geometry_type)."
        )
    log.info("Starting from the %s of %s", name, path)
    # Its own weights, not those that it once started from.
    given = {**system.get("geometry", {}), **override, "weights": None}
    geometry = find(name)(OmegaConf.create(given))
    for foreign in require_compatible(state, geometry.state_dict(), path):
        del state[foreign]
    geometry.load_state_dict(state)
    geometry.do_update_step(epoch, global_step, on_load_weights=True)
    return geometry.to(get_device())
