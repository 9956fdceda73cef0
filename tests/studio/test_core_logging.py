"""What a training logs: values of its steps, and its progress."""

from unittest import mock

import pytest
import pytorch_lightning as pl
import torch
from small_system import System, optimizer
from torch import nn

from threestudio_asd import log
from threestudio_asd.studio.run import callbacks
from threestudio_asd.studio.systems.base import BaseSystem


class Logging(BaseSystem):
    """Logs numbers of several kinds; its third batch has no loss."""

    def configure(self):
        self.net = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        value = batch.sum()
        self.log("train/sum", value)
        value += 1  # what was logged stays
        self.log("train/half", (value / 3).half())
        self.log("train/count", torch.tensor(2**20 + 1))
        self.log("train/number", 0.1)
        self.log("train/mean", value, on_step=False, on_epoch=True)
        self.log("train/sum", value)  # the last one counts
        self.log("train/last", value)
        self.log("train/last", -1.0)
        return None if batch_idx == 2 else {"loss": self.net(batch).sum()}


def logged(system, monkeypatch, values):
    """The values of every step, and how often a tensor of several was copied to the CPU in each."""
    system.cfg.optimizer = optimizer()
    copies, steps, cpu = [], [], torch.Tensor.cpu

    def counted(tensor):
        copies.append(tensor.shape)
        return cpu(tensor)

    class Look(pl.Callback):
        def on_train_batch_start(self, *args):
            copies.clear()

        def on_train_batch_end(self, trainer, system, *args):
            found = {k: v.item() for k, v in trainer.callback_metrics.items() if "train/" in k}
            steps.append((found, len(copies)))

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=1, callbacks=[Look()], **quiet)
    data = torch.utils.data.DataLoader(torch.tensor(values), batch_size=None)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "cpu", counted)
        trainer.fit(system, data)
    return steps, {k: v.item() for k, v in trainer.callback_metrics.items()}


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_logged_values_cross_together_and_unchanged(monkeypatch):
    steps, final = logged(Logging({}), monkeypatch, [[1.0, 2.0], [4.0, 5.0], [7.0, 8.0]])
    for (found, copies), total in zip(steps[:2], (4.0, 10.0), strict=True):
        assert copies == 1
        assert found["train/sum"] == total
        assert found["train/half"] == torch.tensor(total / 3).half().item()
        assert found["train/count"] == 2**20 + 1
        assert found["train/last"] == -1.0
        assert found["train/number"] == torch.tensor(0.1).item()
    assert final["train/sum"] == 16.0  # of the step without a loss
    assert final["train/mean"] == 10.0


@pytest.mark.filterwarnings("ignore")
def test_a_log_that_lightning_refuses_is_refused(monkeypatch):
    class Wrong(Logging):
        def training_step(self, batch, batch_idx):
            self.log("train/two", batch)
            return {"loss": self.net(batch).sum()}

    with pytest.raises(ValueError, match=r"train/two.*single element"):
        logged(Wrong({}), monkeypatch, [[1.0, 2.0]])


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    log.setup_logging()
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: float(next(clock)))
    trainer = mock.create_autospec(pl.Trainer, instance=True, max_steps=100, global_step=0)
    progress, system = callbacks.Progress(interval=10.0), System({})
    progress.on_train_start(trainer, system)
    for trainer.global_step in range(1, 7):
        progress.on_train_batch_end(trainer, system, {"loss": torch.tensor(0.5)})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].split()[1:] == ["training", "3/100", "0.25/s", "loss", "0.5"]
