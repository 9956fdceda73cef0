"""The names of trials' folders, and the checkpoints in them; without torch, for quick answers."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

LONGEST = 120  # bytes of a name; file systems take 143 (encrypted ones) or 255, with the time
_DIGEST = 8
# Separators of folders, and what would break a line.
_UNFIT = re.compile(rf"[{re.escape(os.sep + (os.altsep or ''))}\x00-\x1f\x7f-\x9f\u2028\u2029]")


def folder_name(tag: str) -> str:
    """``tag`` as the name of one folder: the same if it is fit for one.

    Separators, control characters and dots at the beginning become ``_``. A name of more than
    :data:`LONGEST` bytes is cut and ends in a digest of the whole.
    """
    name = _UNFIT.sub("_", tag)
    dots = len(name) - len(name.lstrip("."))  # such a folder would be hidden, or another one
    name = "_" * dots + name[dots:]
    encoded = name.encode()
    if len(encoded) <= LONGEST:
        return name
    digest = hashlib.sha256(tag.encode()).hexdigest()[:_DIGEST]
    kept = encoded[: LONGEST - _DIGEST - 1].decode(errors="ignore")
    return f"{kept}-{digest}"


def make_new(parent: Path, name: str, times: Iterator[str]) -> tuple[Path, str]:
    """Make the first of the folders ``parent/name<time>`` that does not exist, and return it and
    its time. No two processes get the same one.

    Raises:
        OSError: the folder cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for time in times:
        folder = parent / f"{name}{time}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder, time
    raise FileExistsError(f"{parent / name}: every name is taken")


def folder_instead(folder: Path) -> str:
    """The message about a folder that was given where a checkpoint is wanted."""
    found = newest_checkpoint(folder)
    if found is None:
        return "it is a folder without a checkpoint; name a file such as <trial>/ckpts/last.ckpt."
    return f"it is a folder; name the checkpoint in it, {found}"


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of a trial's folder, or of its ``ckpts``: ``last.ckpt``, else the newest."""
    for place in (folder / "ckpts", folder):
        files = sorted(place.glob("*.ckpt"), key=lambda file: file.stat().st_mtime)
        last = [file for file in files if file.name == "last.ckpt"]
        if files:
            return (last or files)[-1]
    return None
