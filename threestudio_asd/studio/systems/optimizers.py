"""Optimisers and learning-rate schedulers as configs describe them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from threestudio_asd.errors import UserError
from threestudio_asd.studio.config.structured import config_to_primitive, unknown_key

_NESTED = {"SequentialLR", "ChainedScheduler"}


def parse_optimizer(config: Any, model: nn.Module) -> Optimizer:
    """``{name, args, params: {dotted.module: {lr: ...}}}`` to an optimiser of ``torch.optim``.

    With ``params``, only the listed modules and parameters are trained; without, all are.

    Raises:
        UserError: an unknown optimiser, argument or module.
    """
    cls = _lookup(torch.optim, config.get("name"), Optimizer, "system.optimizer.name")
    args = config_to_primitive(config.get("args", {}))
    params: Any = model.parameters()
    if "params" in config:
        params = [
            {"params": list(_parameters(model, name)), "name": name, **(options or {})}
            for name, options in config_to_primitive(config["params"]).items()
        ]
    if cls in (torch.optim.Adam, torch.optim.AdamW) and _all_on_cpu(model):
        # One operation for all parameters; elsewhere this is torch's own choice.
        args = {"fused": True, **args} if not args.keys() & {"foreach", "capturable"} else args
    return _construct(cls, "system.optimizer", params, **args)


def _all_on_cpu(model: nn.Module) -> bool:
    trained = [p for p in model.parameters() if p.requires_grad]
    return all(p.device.type == "cpu" and p.is_floating_point() for p in trained)


def parse_scheduler(config: Any, optimizer: Optimizer) -> dict[str, Any]:
    """``{name, interval, args}`` to Lightning's form; ``interval`` is "epoch" or "step".

    ``SequentialLR`` and ``ChainedScheduler`` have ``schedulers``, a list of such mappings (and
    the former ``milestones``), instead of ``args``.

    Raises:
        UserError: an unknown scheduler, argument or interval.
    """
    interval = config.get("interval", "epoch")
    if interval not in ("epoch", "step"):
        raise UserError(f'system.scheduler.interval is "epoch" or "step", not "{interval}".')
    return {"scheduler": _scheduler(config, optimizer), "interval": interval}


def _scheduler(config: Any, optimizer: Optimizer) -> Any:
    name = config.get("name")
    cls = _lookup(lr_scheduler, name, lr_scheduler.LRScheduler, "system.scheduler.name")
    if name not in _NESTED:
        args = config_to_primitive(config.get("args", {}))
        return _construct(cls, "system.scheduler", optimizer, **args)
    members = [_scheduler(member, optimizer) for member in config.get("schedulers", [])]
    if name == "ChainedScheduler":
        return _construct(cls, "system.scheduler", members, optimizer)
    milestones = config_to_primitive(config.get("milestones", []))
    return _construct(cls, "system.scheduler", optimizer, members, milestones=milestones)


def _lookup(namespace: Any, name: Any, base: type, key: str) -> type:
    found = getattr(namespace, name, None) if isinstance(name, str) else None
    if isinstance(found, type) and issubclass(found, base):
        return found
    known = [n for n in dir(namespace) if isinstance(getattr(namespace, n), type)]
    raise UserError(unknown_key(f"{key}={name}", name, known, namespace.__name__))


def _construct(cls: type, section: str, *args: Any, **kwargs: Any) -> Any:
    try:
        return cls(*args, **kwargs)
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"{section}: {cls.__name__} does not accept this: {error}") from error


def _parameters(model: nn.Module, name: str) -> Iterable[nn.Parameter]:
    found: Any = model
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key, _ in getattr(found, "named_children", lambda: [])()]
            full = f"system.optimizer.params.{name}"
            raise UserError(unknown_key(full, part, known, type(found).__name__))
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return found.parameters()
    if isinstance(found, nn.Parameter):
        return [found]
    raise UserError(
        f"system.optimizer.params.{name} is a {type(found).__name__}; name a module or parameter."
    )
