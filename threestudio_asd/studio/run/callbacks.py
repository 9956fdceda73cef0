"""The launcher's callbacks: progress, a clean stop, an end to non-finite steps."""

import time
from pathlib import Path
from signal import Signals
from types import SimpleNamespace
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.stop import ENDING, Stopped, Watch


class SaveLast(Callback):
    """``last.ckpt`` after each validation and the last step, as ``checkpoint.save_last`` meant
    when threestudio's configs were written; today's ModelCheckpoint writes it beside its
    other checkpoints only, and the steps after the last of those would be lost."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            trainer.save_checkpoint(self.checkpoint)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        # Not on_train_end: that checkpoint would count a finished epoch, this one can go on.
        if trainer.global_step == trainer.max_steps:
            trainer.save_checkpoint(self.checkpoint)


class StopOnSignal(Callback):
    """A signal ends the training after the current step, with a checkpoint; a second one at once.

    After Ctrl-C ``fit`` returns and the test may follow; SIGTERM and SIGHUP raise Stopped when the
    step's checkpoints and logs are written, instead of the next step or validation.

    Args:
        go_on: what to do for the training to go on, the end of the message.
    """

    def __init__(self, checkpoint: Path, go_on: str) -> None:
        self.checkpoint, self.go_on = checkpoint, go_on
        self._watch = Watch(_tell)
        self._saved = False

    @property
    def signum(self) -> Signals | None:
        """The signal that came while it trained, if one did."""
        return self._watch.signum

    def leave(self) -> None:
        """Raise Stopped if a signal came after which nothing follows."""
        if self.signum in ENDING:
            raise Stopped(self.signum)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has set a handler of its own just before, which would end the training by
        # another exception, without a checkpoint. It has no part in it until `end`.
        self._watch.begin()

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self._saved:
            self.leave()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._save_if_stopped(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._saved:
            self.leave()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_if_stopped(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch.end()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._watch.end()

    def _save_if_stopped(self, trainer: Trainer) -> None:
        if self.signum is None or self._saved:
            return
        trainer.save_checkpoint(self.checkpoint)
        self._saved = True
        log.info("Saved %s at step %d. %s", self.checkpoint, trainer.global_step, self.go_on)
        if self.signum not in ENDING:
            trainer.should_stop = True


def _tell(signum: Signals) -> None:
    follows = "nothing else follows" if signum in ENDING else "then the test follows"
    log.info("%s: training ends after this step, %s.", signum.name, follows)


class StopWhenNotFinite(Callback):
    """Ends the training after ``patience`` non-finite steps in a row, with a checkpoint of the
    weights, which these steps left alone."""

    def __init__(self, checkpoint: Path, patience: int = 10) -> None:
        self.checkpoint, self.patience = checkpoint, patience

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        if pl_module.nonfinite_steps < self.patience:
            return
        trainer.save_checkpoint(self.checkpoint)
        first = trainer.global_step - self.patience
        raise UserError(
            f"loss or gradient was not finite in {self.patience} steps in a row, from step {first}"
            f" on: training stopped. {self.checkpoint} has the last finite weights. Lower the"
            " learning rate or the guidance scale, or use trainer.precision=32."
        )


class LearningRates(LearningRateMonitor):
    """Lightning's, at every step that is logged. It would copy each rate to the device, and wait
    for that, for nothing but ``callback_metrics``, which are read on the CPU."""

    def __init__(self) -> None:
        super().__init__(logging_interval="step")

    def _extract_stats(self, trainer: Trainer, interval: str) -> dict[str, float]:
        read = ("lr_scheduler_configs", "optimizers", "callback_metrics")
        on_cpu = SimpleNamespace(root_device=torch.device("cpu"))
        shown = SimpleNamespace(strategy=on_cpu, **{name: getattr(trainer, name) for name in read})
        return super()._extract_stats(shown, interval)


class Progress(Callback):
    """A progress bar on a terminal; elsewhere a line every ``interval`` seconds."""

    def __init__(self, interval: float = 10.0) -> None:
        self.interval = interval
        self._bar: Any = None
        self._task: Any = None
        self._label = ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self._begin("training", total, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any
    ) -> None:
        self._advance(trainer.global_step, outputs)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("test", int(sum(trainer.num_test_batches)), 0)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        *args: Any,
    ) -> None:
        self._advance(batch_idx + 1)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._end()

    def _begin(self, label: str, total: int | None, done: int) -> None:
        self._end()
        self._label, self._total, self._first = label, total, done
        self._start = self._shown = time.monotonic()
        if log.console().is_terminal:
            from rich.progress import Progress as Bar

            self._bar = Bar(console=log.console(), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(label, total=total, completed=done)

    def _advance(self, done: int, outputs: Any = None) -> None:
        now = time.monotonic()
        # Reading the loss waits for the device: not at every step.
        if now - self._shown < (0.5 if self._bar else self.interval):
            return
        self._shown = now
        rate = (done - self._first) / max(now - self._start, 1e-9)
        text = f"{self._label} {done}/{self._total or '?'} {rate:.2f}/s{_loss_text(outputs)}"
        if self._bar:
            self._bar.update(self._task, completed=done, description=text)
        else:
            log.info("%s", text)

    def _end(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None


def _loss_text(outputs: Any) -> str:
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return f" loss {loss.item():.4g}" if isinstance(loss, torch.Tensor) else ""
