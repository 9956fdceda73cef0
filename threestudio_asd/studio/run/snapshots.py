"""Config, command and code, which a trial folder keeps besides its results."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from threestudio_asd import log
from threestudio_asd.studio.config.experiment import ExperimentConfig
from threestudio_asd.studio.config.structured import config_to_primitive, dump_config, escape

_CODE = {".py", ".yaml", ".yml", ".toml", ".txt", ".md", ".sh", ".cu", ".cpp", ".h"}
_MAX_FILE_BYTES = 1_000_000
_MAX_FILES = 2_000


def save_configs(folder: Path, source: Path, cfg: Any) -> None:
    """``parsed.yaml``, what runs, and ``raw.yaml``, the file it came from."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = folder / "raw.yaml"
    # A resumed trial is started from one of these two files.
    if source.resolve().parent != folder.resolve():
        shutil.copyfile(source, raw)
    values = config_to_primitive(cfg)
    # threestudio, which has no such key, can read what is left.
    if values.get("pieces") == ExperimentConfig.pieces:
        del values["pieces"]
    dump_config(folder / "parsed.yaml", OmegaConf.create(escape(values)))


def save_command(path: Path) -> None:
    """The command line, one run a line."""
    with path.open("a") as stream:
        stream.write("python " + " ".join(sys.argv) + "\n")


def save_code(folder: Path) -> None:
    """Copies of the text files that git tracks below the working directory, if it is git's."""
    git = ["git", "ls-files", "-z"]
    try:
        listed = subprocess.run(git, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        log.debug("no code snapshot: the working directory is not in a git repository.")
        return
    copied = 0
    for name in os.fsdecode(listed).split("\0"):
        source = Path(name)
        if source.suffix not in _CODE or source.is_symlink() or not source.is_file():
            continue
        if source.stat().st_size > _MAX_FILE_BYTES:
            continue
        if copied == _MAX_FILES:
            log.warn("the code snapshot stops at %d files.", _MAX_FILES)
            return
        target = folder / source
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        copied += 1
