"""What goes on beside a training of a generator: lines, pictures, checkpoints, an orderly end."""

import time
from collections.abc import Callable
from pathlib import Path
from signal import Signals

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.files import written_whole
from threestudio_asd.generators.samples import sheet
from threestudio_asd.generators.training import OneStepTraining
from threestudio_asd.stop import Stopped, Watch, drop_lost_streams

PATIENCE = 10  # steps in a row that are not finite


class Keep(pl.Callback):
    """Saves every ``every`` steps, at the end and when a signal comes, after which it ends; gives
    up when ``PATIENCE`` steps in a row were not finite, with the last state that was.

    Args:
        path: Of the checkpoint.
        total: The number of steps.
    """

    def __init__(self, path: Path, every: int, total: int) -> None:
        self.path, self.every, self.total = path, every, total
        self._watch = Watch(_tell)

    def on_train_start(self, trainer: pl.Trainer, training: OneStepTraining) -> None:
        self._watch.begin()  # after Lightning's own handlers

    def on_train_batch_end(
        self, trainer: pl.Trainer, training: OneStepTraining, *args: object
    ) -> None:
        done, signum = training.steps_done, self._watch.signum
        failed = training.skipped_in_a_row >= PATIENCE
        if not (failed or signum or done % self.every == 0 or done == self.total):
            return
        if trainer.is_global_zero:
            training.save(self.path)
        if failed:
            raise UserError(
                f"loss or gradient was not finite in {PATIENCE} steps in a row, from step "
                f"{done - PATIENCE} on: training stopped. {self.path} has the last finite weights. "
                "Lower lr_generator and lr_fake, or the weights of the adversarial terms."
            )
        if signum:
            drop_lost_streams()
            log.info("Saved %s at step %d; the same command goes on.", self.path, done)
            raise Stopped(signum)

    def on_train_end(self, trainer: pl.Trainer, training: OneStepTraining) -> None:
        self._watch.end()

    def on_exception(
        self, trainer: pl.Trainer, training: OneStepTraining, exception: BaseException
    ) -> None:
        self._watch.end()


class Lines(pl.Callback):
    """A line every ``every`` steps: losses, seconds, seconds left."""

    def __init__(self, total: int, every: int = 20) -> None:
        self.total, self.every = total, every

    def on_train_start(self, trainer: pl.Trainer, training: OneStepTraining) -> None:
        self._first, self._began = training.steps_done, time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, training: OneStepTraining, *args: object
    ) -> None:
        done = training.steps_done
        if done % self.every or not trainer.is_global_zero:
            return
        spent = time.monotonic() - self._began
        left = (self.total - done) * spent / max(done - self._first, 1)
        losses = " ".join(f"{name} {value:.4g}" for name, value in training.losses.items())
        skipped = f" skipped {training.skipped}" if training.skipped else ""
        name = training.method.name
        log.info("%s %d/%d %s%s left %.0fs", name, done, self.total, losses, skipped, left)


class Samples(pl.Callback):
    """``folder/<step>.png`` every ``every`` steps: pictures of the averaged generator, always of
    the same noise and captions, in rows.

    Args:
        noise, text: Of the pictures.
        decode: From latents to pictures in [0, 1].
        columns: Pictures of a row.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        noise: Float[Tensor, "N C h w"],
        text: Float[Tensor, "N L D"],
        decode: Callable[[Tensor], Tensor],
        columns: int = 8,
    ) -> None:
        self.folder, self.every = folder, every
        self.noise, self.text, self.decode, self.columns = noise, text, decode, columns

    def on_train_batch_end(
        self, trainer: pl.Trainer, training: OneStepTraining, *args: object
    ) -> None:
        if training.steps_done % self.every == 0 and trainer.is_global_zero:
            self.write(training, self.folder / f"{training.steps_done:06d}.png")

    @torch.no_grad()
    def write(self, training: OneStepTraining, path: Path) -> None:
        """One grid."""
        noise, text = self.noise.to(training.device), self.text.to(training.device)
        images = self.decode(training.averaged().generate(noise, text)).float().cpu()
        with written_whole(path) as partial:
            sheet(images, self.columns).save(partial, format="PNG")


def _tell(signum: Signals) -> None:
    log.info("%s: training ends after this step.", signum.name)
