"""Facts about what changes during training: ``C()``, optimisers, learning rates."""

from typing import Any

import torch
from contract.definitions import outcome
from contract.hosts import Host
from omegaconf import OmegaConf
from torch import nn

# value, epoch, global step and, where it is not linear, the interpolation
C_VALUES: dict[str, tuple[Any, ...]] = {
    "int": (3,),
    "float": (0.25,),
    "ramp": ([100, 1.0, 2.0, 200],),
    "falling": ([0, 1000.0, 10.0, 5000],),
    "three-items": ([1.0, 0.0, 100],),
    "epochs": ([1, 0.0, 1.0, 3.0],),
    "three-items-epochs": ([0.5, 0.98, 4.0],),
    "six-items": ([0, 0.0, 1.0, 100, 3.0, 300],),
    "eight-items": ([50, 0.0, 1.0, 100, 3.0, 300, 0.5, 301],),
    "six-items-epochs": ([0, 0.0, 1.0, 2.0, 3.0, 4.0],),
    "integers": ([0, 1, 3, 100],),
    "exponential": ([0, 1000.0, 10.0, 100], "exp"),
    "negative-start": ([-100, 0.0, 1.0, 100],),
    "five-items": ([0, 1.0, 2.0, 3, 4],),
    "seven-items": ([0, 1.0, 2.0, 3, 4.0, 5, 6.0],),
    "two-items": ([0, 1.0],),
    "text": ("fast",),
    "unknown-interpolation": ([0, 1.0, 2.0, 10], "cubic"),
    "jump": ([100, 1.0, 2.0, 100],),
}
TIMES = [(0, 0), (0, 49), (0, 100), (1, 150), (2, 200), (2, 300), (3, 301), (5, 5000)]


def schedules(host: Host) -> dict[str, Any]:
    """``C(value, epoch, step)``, keyed "epoch/step"."""
    facts: dict[str, Any] = {}
    for name, (value, *interpolation) in C_VALUES.items():
        node = OmegaConf.create({"x": value}).x
        facts[name] = {
            f"{epoch}/{step}": outcome(lambda a=(node, epoch, step, *interpolation): host.C(*a))
            for epoch, step in TIMES
        }
    facts["plain-list"] = {"0/100": outcome(lambda: host.C([0, 0.0, 1.0, 200], 0, 100))}
    return facts


SCHEDULERS: dict[str, dict[str, Any]] = {
    "exponential": {"name": "ExponentialLR", "interval": "step", "args": {"gamma": 0.5}},
    "no-interval": {"name": "ExponentialLR", "args": {"gamma": 0.5}},
    "sequential": {
        "name": "SequentialLR",
        "interval": "step",
        "milestones": [2],
        "schedulers": [
            {
                "name": "LinearLR",
                "interval": "step",
                "args": {"start_factor": 0.1, "total_iters": 2},
            },
            {"name": "ExponentialLR", "interval": "step", "args": {"gamma": 0.5}},
        ],
    },
    "chained": {
        "name": "ChainedScheduler",
        "interval": "epoch",
        "schedulers": [
            {"name": "ConstantLR", "args": {"factor": 0.1, "total_iters": 2}},
            {"name": "ExponentialLR", "args": {"gamma": 0.5}},
        ],
    },
}
OPTIMIZER = {
    "name": "AdamW",
    "args": {"betas": [0.9, 0.99], "eps": 1e-15},
    "params": {"0": {"lr": 0.01}, "1.weight": {"lr": 0.001}},
}


def optimizers(host: Host) -> dict[str, Any]:
    """Parameter groups, and the learning rate of the first group over five steps."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    optimizer = host.parse_optimizer(OmegaConf.create(OPTIMIZER), model)
    groups = {
        group["name"]: {
            "lr": group["lr"],
            "eps": group["eps"],
            "parameters": [list(p.shape) for p in group["params"]],
        }
        for group in optimizer.param_groups
    }
    rates = {name: _rates(host, cfg) for name, cfg in SCHEDULERS.items()}
    everything = host.parse_optimizer(OmegaConf.create({"name": "SGD", "args": {"lr": 0.1}}), model)
    count = len(everything.param_groups[0]["params"])
    return {"groups": groups, "schedulers": rates, "parameters-without-params": count}


def _rates(host: Host, cfg: dict[str, Any]) -> dict[str, Any]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    parsed = host.parse_scheduler(OmegaConf.create(cfg), optimizer)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        parsed["scheduler"].step()
    return {"interval": parsed["interval"], "rates": rates}
