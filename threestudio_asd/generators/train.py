"""Train a one-step generator, or go on with one."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.files import claimed, room_for
from threestudio_asd.generators.callbacks import Keep, Lines
from threestudio_asd.generators.training import Generator, OneStepTraining

CHECKPOINT = "one-step.ckpt"


def train(
    training: OneStepTraining,
    folder: Path,
    steps: int,
    save_every: int = 100,
    callbacks: Sequence[pl.Callback] = (),
    accelerator: str = "auto",
    devices: int = 1,
) -> Generator:
    """``steps`` steps in all, of which a checkpoint in ``folder`` has some already; returns the
    generator with the average of its weights.

    Args:
        folder: Of the checkpoint, ``CHECKPOINT``.
        save_every: Steps between two checkpoints.
        callbacks: Lightning's, beside those that print lines and save.
        accelerator: Lightning's: "auto", "cpu" or "gpu".
        devices: How many; each draws a batch of its own and gradients are their mean.

    Raises:
        UserError: Another process trains into ``folder``; the checkpoint there is another
            training's; ten steps in a row were not finite.
        Stopped: A signal came; the step that it came in is the last one in the checkpoint.
    """
    log.quiet_lightning()
    path = folder / CHECKPOINT
    # Lightning starts the other devices' processes, which then come here.
    with nullcontext(True) if rank_zero_only.rank else claimed(folder) as alone:
        if not alone:
            raise UserError(f"Another process trains into {folder}; choose another folder.")
        if path.is_file():
            training.resume(path)
            log.info("Going on from step %d of %s.", training.steps_done, path)
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            # Each network's step leaves the others' parameters without a gradient.
            strategy="ddp_find_unused_parameters_true" if devices > 1 else "auto",
            max_epochs=1,
            callbacks=[Lines(steps), Keep(path, save_every, steps), *callbacks],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            inference_mode=False,
        )
        with room_for(path):
            # Numbers of steps; an empty loader, of a finished training, only restores it.
            numbers = DataLoader(range(training.steps_done, max(steps, training.steps_done)))
            trainer.fit(training, numbers)
    if training.skipped:
        log.warn("%d steps were not finite and were skipped.", training.skipped)
    return training.averaged()
