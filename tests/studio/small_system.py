"""A system of two small parts, and a config of its optimiser."""

from dataclasses import dataclass

import torch
from omegaconf import OmegaConf
from torch import nn

from threestudio_asd.studio.base import BaseModule
from threestudio_asd.studio.systems.base import BaseSystem


class Net(BaseModule):
    """Notes its updates in ``steps``."""

    @dataclass
    class Config(BaseModule.Config):
        width: int = 2

    def configure(self):
        self.encoding = nn.Linear(self.cfg.width, 2)
        self.scale = nn.Parameter(torch.ones(1))
        self.steps = []

    def update_step(self, epoch, global_step, on_load_weights=False):
        self.steps.append((epoch, global_step, on_load_weights))


class System(BaseSystem):
    """Its geometry is a ``Net``, its background a layer."""

    def configure(self):
        self.geometry = Net()
        self.background = nn.Linear(2, 2)


def optimizer(**section):
    """The config's section: AdamW, with changes."""
    return OmegaConf.create({"name": "AdamW", "args": {"lr": 0.1}, **section})
