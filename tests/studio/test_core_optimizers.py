"""Optimisers and schedules of learning rates, from configs."""

import pytest
import torch
from omegaconf import OmegaConf
from small_system import System, optimizer
from torch import nn

from threestudio_asd.errors import UserError
from threestudio_asd.studio.systems.optimizers import parse_optimizer, parse_scheduler


def test_only_listed_modules_are_trained():
    system = System({})
    params = {"geometry.encoding": {"lr": 0.01}, "geometry.scale": {"lr": 0.02}}
    groups = parse_optimizer(optimizer(params=params), system).param_groups
    assert [(g["name"], g["lr"], len(g["params"])) for g in groups] == [
        ("geometry.encoding", 0.01, 2),
        ("geometry.scale", 0.02, 1),
    ]
    (everything,) = parse_optimizer(optimizer(), system).param_groups
    assert len(everything["params"]) == len(list(system.parameters()))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "Adamm"}, "did you mean Adam"),
        ({"name": "step"}, r"optimizer\.name=step"),
        ({"args": {"lrr": 1}}, "AdamW does not accept this.*lrr"),
        ({"params": {"geometri": {"lr": 1}}}, "did you mean geometry"),
        ({"params": {"geometry.encoder": {"lr": 1}}}, "did you mean encoding"),
        ({"params": {"seed": {"lr": 1}}}, "name a module or parameter"),
    ],
)
def test_bad_optimizers(section, message):
    with pytest.raises(UserError, match=message):
        parse_optimizer(optimizer(**section), System({}))


def learning_rates(section, steps):
    weight = nn.Parameter(torch.ones(1))
    sgd = torch.optim.SGD([weight], lr=1.0)
    made = parse_scheduler(OmegaConf.create(section), sgd)
    rates = []
    for _ in range(steps):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        made["scheduler"].step()
    return made["interval"], rates


HALF = {"name": "ConstantLR", "args": {"factor": 0.5, "total_iters": 100}}
DECAY = {"name": "ExponentialLR", "args": {"gamma": 0.1}}


def test_schedulers():
    assert learning_rates({**DECAY, "interval": "step"}, 3) == (
        "step",
        pytest.approx([1, 0.1, 0.01]),
    )
    assert learning_rates(DECAY, 1)[0] == "epoch"
    sequence = {"name": "SequentialLR", "schedulers": [HALF, DECAY], "milestones": [2]}
    assert learning_rates(sequence, 4)[1] == pytest.approx([0.5, 0.5, 1.0, 0.1])
    chain = {"name": "ChainedScheduler", "schedulers": [HALF, DECAY]}
    assert learning_rates(chain, 3)[1] == pytest.approx([0.5, 0.05, 0.005])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "ExponentialR"}, "did you mean ExponentialLR"),
        ({**DECAY, "interval": "hour"}, '"epoch" or "step"'),
        ({"name": "ExponentialLR", "args": {"gama": 1}}, "ExponentialLR does not accept this"),
    ],
)
def test_bad_schedulers(section, message):
    with pytest.raises(UserError, match=message):
        learning_rates(section, 1)
