"""A system and data small enough to train in a blink; tests put it into a ``custom/`` folder."""

import os
import signal
import time
from collections import OrderedDict
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


class Signalling(dict):
    """Calls back while it is written: the file is open and incomplete."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def __reduce__(self):
        self.call("save")
        return OrderedDict, ()


@register("toy-system")
class ToySystem(BaseSystem):
    """Pulls a weight towards noisy data; writes each loss to the file ``losses.txt``."""

    @dataclass
    class Config(BaseSystem.Config):
        width: int = 4
        nan_steps: list = field(default_factory=list)  # steps whose loss is not finite
        nan_gradients: bool = False  # ... or whose gradient is not
        # The process sends itself signal_name with this step, and again that many seconds later.
        signal_step: int = -1
        signal_name: str = "SIGKILL"
        signal_place: str = "training"  # or validation, test, save: in the middle of a checkpoint
        signal_again: float = -1.0
        pause: float = 0.0  # seconds that a step takes besides
        # What the command line of stages sets.
        stage: str = "coarse"
        prompt_processor: dict = field(default_factory=dict)
        geometry_convert_from: str | None = None

    def configure(self):
        self.weight = torch.nn.Parameter(torch.zeros(self.cfg.width))

    def signal_at(self, place):
        if (place, self.true_global_step) != (self.cfg.signal_place, self.cfg.signal_step):
            return
        os.kill(os.getpid(), getattr(signal, self.cfg.signal_name))
        if self.cfg.signal_again >= 0:
            time.sleep(self.cfg.signal_again)
            os.kill(os.getpid(), getattr(signal, self.cfg.signal_name))

    def on_save_checkpoint(self, checkpoint):
        super().on_save_checkpoint(checkpoint)
        if self.cfg.signal_place == "save":
            checkpoint["signal"] = Signalling(self.signal_at)

    def training_step(self, batch, batch_idx):
        step = self.true_global_step
        self.signal_at("training")
        time.sleep(self.cfg.pause)
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
        self.signal_at("validation")
        torch.rand(3)  # evaluation may use random numbers, too
        image = torch.sigmoid(self.weight.detach()).reshape(2, 2, 1).expand(2, 2, 3)
        self.save_image_grid(
            f"it{self.true_global_step}-{batch['index'][0]}.png", [{"type": "rgb", "img": image}]
        )

    def on_validation_epoch_end(self):
        pass

    def test_step(self, batch, batch_idx):
        self.signal_at("test")
        value = self.weight.detach().tolist()
        self.save_json(f"it{self.true_global_step}-test/{batch['index'][0]}.json", value)

    def predict_step(self, batch, batch_idx):
        self.save_data(f"it{self.true_global_step}-export/weight", self.weight)
