"""Checkpoints: written whole or not at all, read without running code that they may hold."""

import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from threestudio_asd.errors import DiskFullError, UserError
from threestudio_asd.files import full_disk, written_whole
from threestudio_asd.pretrained.pickles import read_weights, refusal
from threestudio_asd.studio.config.trials import folder_instead, folder_name

BATCHES_KEY = "threestudio_asd_batches"
_KEYS = ("state_dict", "epoch", "global_step")


def save_atomically(payload: Any, path: str | os.PathLike) -> None:
    """``torch.save``; whatever interrupts it, ``path`` is the old file or the complete new one."""
    with written_whole(path) as partial:
        torch.save(payload, partial)


@contextmanager
def full_disk_told(trial: Path, go_on: str, trains: bool = True) -> Iterator[None]:
    """For a block that writes into the folder ``trial``.

    Args:
        go_on: what to do for the work to go on from ``ckpts/last.ckpt`` there, a sentence.
        trains: whether it writes checkpoints.

    Raises:
        DiskFullError: No room is left, whichever library said so; the message names the disk, the
            last whole checkpoint and how to go on.
    """
    try:
        yield
    except Exception as error:
        found = full_disk(error, trial)
        if found is None:
            raise
        kept = _kept(trial / "ckpts", go_on) if trains else f"Make room. {go_on}"
        raise DiskFullError(f"{found}. {kept}") from error


def _kept(folder: Path, go_on: str) -> str:
    last = folder / "last.ckpt"
    # A command can name any of them; a program that goes on by itself takes the last.
    found = folder.glob("*.ckpt" if str(last) in go_on else last.name)
    found = sorted(found, key=lambda path: path.stat().st_mtime_ns)
    if not found:
        return "No checkpoint is kept: make room and start again."
    newest = found[-1]
    step = int(load_checkpoint(newest)["global_step"])
    go_on = go_on.replace(str(last), str(newest))
    return f"{newest} is kept, with all of step {step}. Make room. {go_on}"


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read a Lightning checkpoint onto the CPU, restricted to tensors and plain values.

    Of one of threestudio's own, which holds configs besides, the weights alone.

    Raises:
        UserError: the file is missing, incomplete, holds code, or is no such checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"the checkpoint {path} does not exist: {folder_instead(path)}")
    if not path.is_file():
        raise UserError(f"the checkpoint {path} does not exist (or is not a file).")
    try:
        checkpoint = _read(path)
    except pickle.UnpicklingError as error:
        told = refusal(path, error)
        raise UserError(f"the checkpoint {path} {told}" if told else _corrupt(path)) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(_corrupt(path)) from error
    if not _is_training_checkpoint(checkpoint):
        raise UserError(
            f"{path} is not a training checkpoint: it lacks {', '.join(_KEYS)}."
            " Use a file from a trial's ckpts/ folder."
        )
    # threestudio's encodings without parameters (spherical harmonics) leave empty tables.
    state = checkpoint["state_dict"]
    for name in [name for name, value in state.items() if value.numel() == 0]:
        del state[name]
    return checkpoint


def _is_training_checkpoint(found: Any) -> bool:
    if not isinstance(found, dict) or any(key not in found for key in _KEYS):
        return False
    numbers = isinstance(found["epoch"], int) and isinstance(found["global_step"], int)
    return numbers and all(isinstance(v, torch.Tensor) for v in found["state_dict"].values())


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "omegaconf" not in str(error):
            raise
    return read_weights(path, _KEYS)


def batches_seen(checkpoint: Mapping[str, Any]) -> int:
    """Training batches behind a checkpoint; in one of threestudio's, one per step."""
    return int(checkpoint.get(BATCHES_KEY, checkpoint["global_step"]))


def load_module_weights(
    path: str | os.PathLike,
    module_name: str | None = None,
    ignore_modules: Iterable[str] | None = None,
) -> tuple[dict[str, torch.Tensor], int, int]:
    """Part of a checkpoint's weights.

    Args:
        module_name: return this module's weights only, under names relative to it.
        ignore_modules: return everything but these modules' weights.

    Returns:
        state dict (on the CPU), epoch, global step

    Raises:
        UserError: both selections are given, or the checkpoint has no such module or is unusable.
    """
    if module_name is not None and ignore_modules is not None:
        raise UserError("module_name and ignore_modules exclude each other: give one of them.")
    checkpoint = load_checkpoint(path)
    state = checkpoint["state_dict"]
    if module_name is not None:
        prefix = f"{module_name}."
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if not state:
            modules = ", ".join(sorted({key.split(".")[0] for key in checkpoint["state_dict"]}))
            raise UserError(f'{path} has no module "{module_name}"; it has {modules}.')
    elif ignore_modules is not None:
        prefixes = tuple(f"{name}." for name in ignore_modules)
        state = {k: v for k, v in state.items() if not k.startswith(prefixes)}
    return state, int(checkpoint["epoch"]), int(checkpoint["global_step"])


def require_compatible(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], path: str
) -> list[str]:
    """Check that the weights ``state`` fit a system whose own are ``own``.

    Returns:
        Names in ``state`` that belong to top-level modules the system does not have (a guidance
        that only training builds, say).

    Raises:
        UserError: the checkpoint was made with another config.
    """
    modules = {name.split(".")[0] for name in own}
    absent = [name for name in state if name.split(".")[0] not in modules]
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [
        f"{name} has shape {tuple(tensor.shape)}, the config makes {tuple(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and own[name].shape != tensor.shape
    ]
    problems += [f"{name} has no place" for name in state if name not in own and name not in absent]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(
            f"the checkpoint {path} belongs to another config: {problems[0]}{more}."
            " Use the trial's own configs/parsed.yaml."
        )
    return absent


def find_last_path(path: str | None) -> str | None:
    """Replace ``LAST`` in ``outputs/name/tag@LAST/...`` by the trial with the latest timestamp.

    Raises:
        UserError: there is no such trial, or it lacks the file.
    """
    # The prompt in a trial's name may have the word, too.
    if path is None or "LAST" not in path or os.path.exists(path):
        return path
    before, _, after = path.replace(" ", "_").partition("LAST")
    folder, prefix = os.path.split(before)
    tag, at, _ = prefix.rpartition("@")
    prefix = f"{folder_name(tag)}{at}" if at else prefix
    trials = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    trials = sorted(name for name in trials if name.startswith(prefix))
    if not trials:
        raise UserError(f"{path}: no folder {before}* exists; run the earlier stage first.")
    found = os.path.join(folder, trials[-1]) + after
    if not os.path.exists(found):
        raise UserError(f"{path}: {found} does not exist; did the earlier stage finish?")
    return found


def _corrupt(path: Path) -> str:
    return (
        f"the checkpoint {path} cannot be read: it is damaged or incomplete."
        " Use another file of the trial's ckpts/ folder."
    )
