"""A system and data small enough to train in a blink; tests put it into a ``custom/`` folder."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from threestudio_asd.host import BaseSystem, parse_structured, register


class Batches(IterableDataset):
    """Batch k is a function of (seed, k)."""

    def __init__(self, seed, start):
        self.seed, self.start = seed, start

    def __iter__(self):
        k = self.start
        while True:
            generator = torch.Generator().manual_seed(1000 * self.seed + k)
            yield {"x": torch.randn(4, generator=generator), "k": k}
            k += 1


class Views(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"index": index}


@register("toy-data")
class ToyData(pl.LightningDataModule):
    @dataclass
    class Config:
        size: int = 4

    def __init__(self, cfg):
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self.seed = self.start_step = 0

    def train_dataloader(self):
        return DataLoader(Batches(self.seed, self.start_step), batch_size=None)

    def val_dataloader(self):
        return DataLoader(Views(), batch_size=1)

    test_dataloader = predict_dataloader = val_dataloader


@register("toy-system")
class ToySystem(BaseSystem):
    """Pulls a weight towards noisy data; writes each loss to the file ``losses.txt``."""

    @dataclass
    class Config(BaseSystem.Config):
        width: int = 4
        nan_steps: list = field(default_factory=list)  # steps whose loss is not finite
        nan_gradients: bool = False  # ... or whose gradient is not
        signal_step: int = -1  # the process sends itself signal_name before this step ...
        signal_name: str = "SIGKILL"

    def configure(self):
        self.weight = torch.nn.Parameter(torch.zeros(self.cfg.width))

    def training_step(self, batch, batch_idx):
        step = self.true_global_step
        if step == self.cfg.signal_step:
            os.kill(os.getpid(), getattr(signal, self.cfg.signal_name))
        loss = ((self.weight - batch["x"] - torch.randn(4)) ** 2).sum()
        if step in self.cfg.nan_steps:
            # sqrt has an infinite slope at 0, which the factor 0 makes NaN.
            poison = (0 * self.weight).abs().sqrt().sum()
            loss = loss + poison if self.cfg.nan_gradients else loss * float("nan")
        with Path("losses.txt").open("a") as stream:
            stream.write(f"{step} {batch['k']} {loss.item()!r}\n")
        self.log("train/loss", loss)
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        torch.rand(3)  # evaluation may use random numbers, too
        image = torch.sigmoid(self.weight.detach()).reshape(2, 2, 1).expand(2, 2, 3)
        self.save_image_grid(
            f"it{self.true_global_step}-{batch['index'][0]}.png", [{"type": "rgb", "img": image}]
        )

    def on_validation_epoch_end(self):
        pass

    def test_step(self, batch, batch_idx):
        value = self.weight.detach().tolist()
        self.save_json(f"it{self.true_global_step}-test/{batch['index'][0]}.json", value)

    def predict_step(self, batch, batch_idx):
        self.save_data(f"it{self.true_global_step}-export/weight", self.weight)
