"""Helpers: run the launcher on the toy system, in this process or in another one."""

import shutil
import subprocess
from pathlib import Path
from unittest import mock

import pytest
from processes import ROOT, run

from threestudio_asd.cli import main as cli

HERE = Path(__file__).parent

TOY = """
name: toy
tag: run
use_timestamp: false
data_type: toy-data
system_type: toy-system
system:
  optimizer:
    name: Adam
    args: {lr: 0.1}
    params:
      weight: {lr: 0.05}
trainer:
  max_steps: 6
  val_check_interval: 2
  check_val_every_n_epoch: null
  num_sanity_val_steps: 0
  log_every_n_steps: 1
  enable_progress_bar: false
checkpoint:
  save_last: true
  save_top_k: -1
  every_n_train_steps: 3
"""

TRIAL = Path("outputs/toy/run")
RESUME = f"resume={TRIAL}/ckpts/last.ckpt"


def prepare(folder: Path) -> None:
    """A working folder with the toy's config, and the toy itself as an extension."""
    (folder / "toy.yaml").write_text(TOY)
    (folder / "custom").mkdir()
    shutil.copyfile(HERE / "toy_extension.py", folder / "custom" / "toy_extension.py")


def prepare_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of :func:`launch`, made the present one; returns it."""
    prepare(folder)
    (folder / "custom" / "toy_extension.py").unlink()  # imported already
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return folder


def launch(*arguments: str) -> int:
    """Run in this process and folder, with the toy already imported; returns the exit code."""
    with mock.patch.object(cli, "PLUGINS", ()):
        return cli.main(["launch", "--config", "toy.yaml", *arguments])


def launch_process(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run the repository's launch.py in a process of its own."""
    return run(str(ROOT / "launch.py"), *arguments, cwd=folder)


def losses(folder: Path = Path()) -> dict[int, str]:
    """Step -> the line that the toy wrote for it (the last, if it did the step twice)."""
    lines = (folder / "losses.txt").read_text().splitlines()
    return {int(line.split()[0]): line for line in lines}
