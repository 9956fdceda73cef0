"""A disk that fills up while saving: one line, and the last checkpoint is whole.

The kernel's limit on the size of files stands in for a full disk: every library meets it in its own
way, as it would meet the end of the disk.
"""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_extension  # noqa: F401  (registers the toy in this process)
from core_launch import RESUME, TRIAL, launch, prepare_here
from safetensors import SafetensorError

from threestudio_asd import files
from threestudio_asd.cli.main import main
from threestudio_asd.errors import DiskFullError
from threestudio_asd.files import full_disk, room_for, written_whole
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.studio.checkpoint.store import load_checkpoint, save_atomically
from threestudio_asd.studio.systems.saving import SaverMixin

LIMIT = 1 << 15
LAST = TRIAL / "ckpts/last.ckpt"


@pytest.fixture
def small_files():
    """No file may have more than ``LIMIT`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def saver(tmp_path):
    saver = SaverMixin()
    saver.set_save_dir(tmp_path)
    return saver


NOISE = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
MESH = Mesh(torch.rand(3000, 3), torch.randint(3000, (6000, 3)))
WRITERS = {
    "checkpoint": lambda s: s.save_state_dict("a.ckpt", {"x": torch.rand(100_000)}),
    "picture": lambda s: s.save_rgb_image("a.png", NOISE / 255.0),
    "jpeg": lambda s: s.save_rgb_image("a.jpg", NOISE / 255.0),
    "depth": lambda s: s.save_image("a.png", NOISE),
    "array": lambda s: s.save_data("a", np.zeros(100_000)),
    "arrays": lambda s: s.save_data("a", {"x": np.zeros(100_000)}),
    "text": lambda s: s.save_json("a.json", list(range(20_000))),
    "video": lambda s: s.save_video("a.gif", torch.rand(4, 128, 128, 3)),
    "glb": lambda s: s.save_mesh("a.glb", mesh=MESH),
    "obj": lambda s: s.save_obj("a.obj", MESH),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_names_the_disk(saver, tmp_path, small_files, kind):
    with pytest.raises(DiskFullError, match=rf"no room for {tmp_path}/a\.") as error:
        WRITERS[kind](saver)
    assert "the file system at /" in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []  # no part of it


def test_an_old_file_survives(tmp_path, small_files):
    path = tmp_path / "a.ckpt"
    save_atomically({"x": 1}, path)
    with pytest.raises(DiskFullError):
        save_atomically({"x": torch.rand(100_000)}, path)
    assert torch.load(path) == {"x": 1} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EROFS, "Read-only file system"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
        RuntimeError("av_interleaved_write_frame(): No space left on device"),
    ],
)
def test_what_libraries_say_of_a_full_disk(tmp_path, error):
    for raised in (error, chained(error)):
        with pytest.raises(DiskFullError, match="no room for"), room_for(tmp_path / "a"):
            raise raised
    assert full_disk(ValueError("wrong")) is None


def chained(cause):
    try:
        raise ValueError("cannot write") from cause
    except ValueError as error:
        return error


def test_an_error_that_does_not_say_why_is_asked_after(tmp_path, monkeypatch):
    silent = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    with pytest.raises(RuntimeError), written_whole(tmp_path / "a"):
        raise silent  # the disk has room: another fault
    monkeypatch.setattr(files.os, "fsync", fail(errno.ENOSPC))
    full = pytest.raises(DiskFullError, match=r"is full \([\d,]+ of [\d,]+ MB free\)")
    with full, written_whole(tmp_path / "a"):
        raise silent


def fail(number):
    def call(*args, **options):
        raise OSError(number, os.strerror(number))

    return call


# Trainings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return prepare_here(tmp_path, monkeypatch)


def told(capsys):
    error = capsys.readouterr().err.partition("error: ")[2].strip()
    assert error and "\n" not in error
    return error


def full_after(monkeypatch, count):
    """The disk is full from the ``count``-th checkpoint on, in torch's words."""
    saved, write = [], torch.save

    def save(payload, path, *args, **options):
        if len(saved) == count:
            Path(path).write_bytes(b"half")
            monkeypatch.setattr(files.os, "fsync", fail(errno.ENOSPC))
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
        saved.append(path)
        write(payload, path, *args, **options)

    monkeypatch.setattr(torch, "save", save)


def test_a_training_says_what_is_kept_and_how_to_go_on(folder, capsys, monkeypatch):
    with monkeypatch.context() as patches:
        full_after(patches, 2)
        assert launch("--train") == 2
    message = told(capsys)
    newest = max(TRIAL.glob("ckpts/*.ckpt"), key=lambda p: p.stat().st_mtime_ns)
    step = load_checkpoint(newest)["global_step"]
    assert f"{newest} is kept, with all of step {step}." in message
    assert "the file system at /" in message and f"resume={newest}" in message
    assert not list(TRIAL.rglob("*.partial"))
    assert launch("--train", f"resume={newest}") == 0  # as it said
    assert load_checkpoint(LAST)["global_step"] == 6


def test_a_training_without_a_checkpoint_says_so(folder, capsys, monkeypatch):
    full_after(monkeypatch, 0)
    assert launch("--train") == 2
    assert "No checkpoint is kept: make room and start again." in told(capsys)


@pytest.mark.parametrize(
    "writer",
    [
        "pytorch_lightning.loggers.CSVLogger.save",
        "pytorch_lightning.loggers.CSVLogger.log_metrics",
        "threestudio_asd.studio.run.snapshots.dump_config",
    ],
)
def test_a_logger_or_a_config_that_finds_no_room(folder, capsys, monkeypatch, writer):
    monkeypatch.setattr(writer, fail(errno.ENOSPC))
    assert launch("--train") == 2
    message = told(capsys)
    assert "is full" in message and str(Path.cwd().anchor) in message


def test_a_test_that_finds_no_room_is_run_again(folder, capsys, monkeypatch):
    assert launch("--train") == 0
    capsys.readouterr()
    monkeypatch.setattr(Path, "write_text", fail(errno.ENOSPC))
    assert launch("--test", RESUME) == 2
    assert "Make room. Run the same command again." in told(capsys)


def test_other_commands_tell_it_too(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("threestudio_asd.cli.link.main", fail(errno.ENOSPC))
    assert main(["link", str(tmp_path)]) == 2
    assert "is full" in told(capsys)
