"""One run of a parsed experiment: build, check, train or evaluate."""

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from signal import Signals
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.parallel import set_pieces
from threestudio_asd.stop import held
from threestudio_asd.studio.checkpoint.store import (
    batches_seen,
    full_disk_told,
    load_checkpoint,
    require_compatible,
)
from threestudio_asd.studio.config.check import check_system, require_usable
from threestudio_asd.studio.config.experiment import timestamps
from threestudio_asd.studio.config.structured import escape
from threestudio_asd.studio.config.trials import make_new
from threestudio_asd.studio.device import prepare_cpu
from threestudio_asd.studio.registry import find
from threestudio_asd.studio.run.callbacks import (
    LearningRates,
    Progress,
    SaveLast,
    StopOnSignal,
    StopWhenNotFinite,
)
from threestudio_asd.studio.run.snapshots import save_code, save_command, save_configs
from threestudio_asd.studio.run.trainer import (
    check_arguments,
    clear_errors,
    make_checkpoint_callback,
    make_trainer,
)
from threestudio_asd.studio.systems.base import BaseSystem


def run(
    args: argparse.Namespace,
    source: Path,
    cfg: Any,
    go_on: str | None = None,
    new: bool = False,
) -> Signals | None:
    """Do what the command line ``args`` asks for with the experiment ``cfg``.

    Args:
        source: the file that the config came from.
        go_on: what to do for a stopped training to go on; default: a command that is made up here.
        new: make a folder that no other run has, with another time in its name if need be.

    Returns:
        SIGINT if it ended the training early, before the test.

    Raises:
        UserError: a bad config, checkpoint or output folder; always before the first step.
        Stopped: SIGTERM or SIGHUP.
    """
    if not args.verbose:
        log.quiet_lightning()
    check_arguments("trainer", pl.Trainer, cfg.trainer)
    check_arguments("checkpoint", ModelCheckpoint, cfg.checkpoint)
    check_system(cfg, export=args.export)
    data = find(cfg.data_type)(cfg.data)
    checkpoint = None if cfg.resume is None else load_checkpoint(cfg.resume)
    if args.train and checkpoint is not None and "optimizer_states" not in checkpoint:
        raise UserError(
            f"the checkpoint {cfg.resume} has weights but no training state: start a new trial"
            " from it with system.weights=... instead of resume=..."
        )
    if args.train:
        require_usable(cfg)
    trial = _make_trial_folder(cfg, new)
    log.info("%s", _device_line(args.gpu))
    prepare_cpu()
    last = trial / "ckpts" / "last.ckpt"
    go_on = go_on or f"To go on: {_resuming_command(args, trial, last)}"
    stopper = StopOnSignal(last, go_on)
    trainer, system = assemble(
        *(cfg, data, trial, cfg.trainer, *_attachments(args, cfg, trial, last, stopper)),
        verbose=args.verbose,
        resumed=checkpoint is not None,
    )
    if checkpoint is not None:
        require_compatible(checkpoint["state_dict"], system.state_dict(), cfg.resume)
        data.start_step = batches_seen(checkpoint)
        progress = (int(checkpoint["epoch"]), int(checkpoint["global_step"]))
        del checkpoint
    elif not args.train and cfg.system.get("weights") is None:
        log.warn("no resume=...: this evaluates an untrained system.")
    if args.train:
        with full_disk_told(trial, go_on):
            _train(trainer, system, data, cfg, source, trial, stopper)
        return stopper.signum
    if cfg.resume is not None:
        system.set_resume_status(*progress)
    task = trainer.validate if args.validate else trainer.test if args.test else trainer.predict
    with clear_errors(), full_disk_told(trial, "Run the same command again.", trains=False):
        task(system, datamodule=data, ckpt_path=cfg.resume, weights_only=True)
    return None


def assemble(
    cfg: Any,
    data: Any,
    trial: Path,
    arguments: Mapping[str, Any],
    callbacks: list[Any],
    loggers: list[Any],
    verbose: bool = False,
    resumed: bool = False,
) -> tuple[pl.Trainer, BaseSystem]:
    """A seeded trainer and the system of ``cfg``, both ready to be run on ``data``.

    Args:
        trial: pictures go into its folder ``save``.
        arguments: of Lightning's Trainer.
        resumed: whether a checkpoint is going to be loaded.

    Raises:
        UserError: a bad config; what is wrong with ``arguments`` is told before any model is built.
    """
    set_pieces(cfg.pieces)
    pl.seed_everything(cfg.seed, workers=True, verbose=verbose)
    trainer = make_trainer(arguments, callbacks, loggers, verbose=verbose)
    system = find(cfg.system_type)(cfg.system, resumed=resumed)
    system.set_save_dir(trial / "save")
    system.seed = data.seed = cfg.seed
    return trainer, system


def _train(
    trainer: pl.Trainer,
    system: BaseSystem,
    data: Any,
    cfg: Any,
    source: Path,
    trial: Path,
    stopper: StopOnSignal,
) -> None:
    with held():
        save_configs(trial / "configs", source, cfg)
        save_command(trial / "cmd.txt")
    save_code(trial / "code")
    log.info("trial folder: %s", trial)
    with clear_errors():
        trainer.fit(system, datamodule=data, ckpt_path=cfg.resume, weights_only=True)
    stopper.leave()
    if system.nonfinite_total:
        log.warn("%d steps were not finite and were skipped.", system.nonfinite_total)
    with clear_errors():
        trainer.test(system, datamodule=data, verbose=False)


def _attachments(
    args: argparse.Namespace, cfg: Any, trial: Path, last: Path, stopper: StopOnSignal
) -> tuple[list[Any], list[Any]]:
    """Callbacks and loggers."""
    callbacks: list[Any] = []
    if cfg.trainer.get("enable_progress_bar", True):
        callbacks.append(Progress())
    if not args.train:
        return callbacks, []
    if cfg.checkpoint.get("save_last"):
        callbacks.append(SaveLast(last))
    callbacks += [
        stopper,
        StopWhenNotFinite(last),
        LearningRates(),
        make_checkpoint_callback(str(last.parent), cfg.checkpoint),
    ]
    loggers = [
        TensorBoardLogger(str(trial), name="tb_logs"),
        CSVLogger(str(trial), name="csv_logs", flush_logs_every_n_steps=20),
    ]
    return callbacks, loggers


def _resuming_command(args: argparse.Namespace, trial: Path, last: Path) -> str:
    """The command that goes on with this trial from its last checkpoint."""
    own = Path(sys.argv[0]).name == "launch.py"
    start = ["python", sys.argv[0]] if own else ["threestudio-asd", "launch"]
    gpu = [] if args.gpu == "0" else ["--gpu", args.gpu]
    config = str(trial / "configs" / "parsed.yaml")
    return shlex.join([*start, "--config", config, "--train", *gpu, f"resume={last}"])


def _make_trial_folder(cfg: Any, new: bool) -> Path:
    trial = Path(cfg.trial_dir)
    try:
        if new:
            tag = cfg.trial_name.removesuffix(cfg.timestamp)
            trial, time = make_new(Path(cfg.exp_dir), tag, timestamps(cfg.timestamp))
            cfg.timestamp, cfg.trial_name, cfg.trial_dir = escape([time, trial.name, str(trial)])
        trial.mkdir(parents=True, exist_ok=True)
        probe = trial / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to the trial folder {trial}: {error.strerror}. Choose another place"
            " with exp_root_dir=..., or another name with tag=..."
        ) from error
    return trial


def _device_line(gpu: str) -> str:
    if torch.cuda.is_available():
        return f"running on {torch.cuda.get_device_name(0)}"
    return f"no CUDA device (--gpu {gpu}): running on the CPU"
