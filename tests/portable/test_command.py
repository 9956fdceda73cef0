"""``threestudio-asd upstream`` up to the start of threestudio's own launcher."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_threestudio import write_checkout

import threestudio_asd
from threestudio_asd.cli import upstream, upstream_run
from threestudio_asd.cores import cores
from threestudio_asd.errors import UserError

PACKAGED = ("configs/tiny/asd-nerf.yaml", "tiny/asd-nerf")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that looks like a checkout; the working directory is another one."""
    folder = write_checkout(tmp_path / "checkout")
    (folder / "configs").mkdir()
    (folder / "configs/theirs.yaml").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.yaml").touch()
    monkeypatch.chdir(tmp_path / "mine")
    return folder


@pytest.fixture
def started(monkeypatch):
    """The arguments of the process that would be started, which exits with code 3."""
    seen = {}

    def run(command, **options):
        seen.update(options, command=command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    return seen


def test_launcher_is_started_in_the_checkout(checkout, started, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    arguments = ["--train", "--gpu", "1", "system.prompt_processor.prompt=a red mug"]
    assert upstream.main([str(checkout), "--config", "own", *arguments]) == 3
    runner, config = started["command"][:3], started["command"][4]
    assert runner == [sys.executable, "-m", "threestudio_asd.cli.upstream_run"]
    assert Path(config).is_absolute()
    assert started["command"][-2:] == ["--train", arguments[-1]]
    assert started["cwd"] == checkout
    assert started["env"]["CUDA_VISIBLE_DEVICES"] == "1"
    package = Path(started["env"]["PYTHONPATH"].split(os.pathsep)[0]) / "threestudio_asd"
    assert package.samefile(Path(threestudio_asd.__file__).parent)


def test_threads_are_as_many_as_cores_unless_someone_says_otherwise(checkout, started, monkeypatch):
    for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    upstream.main([str(checkout), "--config", "own", "--test"])
    assert started["env"]["OMP_NUM_THREADS"] == str(cores())
    assert int(started["env"]["GOMP_SPINCOUNT"]) < 10**5
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    upstream.main([str(checkout), "--config", "own", "--test"])
    assert started["env"]["OMP_NUM_THREADS"] == "5"


def test_chosen_devices_win_over_gpu(checkout, started, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    upstream.main([str(checkout), "--config", "own", "--test"])
    assert started["env"]["CUDA_VISIBLE_DEVICES"] == "2"


@pytest.mark.parametrize("name", ["own", "own.yaml", "configs/theirs.yaml", *PACKAGED])
def test_config_is_found(checkout, started, name):
    upstream.main([str(checkout), "--config", name, "--train"])
    config = Path(started["command"][4])
    assert config.is_file()
    assert config.stem == Path(name).stem


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["elsewhere", "--config", "own"], "no checkout of threestudio: it has no launch.py"),
        (["{checkout}", "--config", "nobody"], "there is no config nobody"),
        (["{checkout}"], "--config"),
    ],
)
def test_bad_arguments(checkout, arguments, message):
    with pytest.raises(UserError, match=message):
        upstream.main([a.format(checkout=checkout) for a in arguments])


def test_an_old_checkout_is_refused(tmp_path):
    old = write_checkout(tmp_path / "old", version="0.1.0")
    with pytest.raises(UserError, match=r"threestudio 0\.1\.0; 0\.2\.3 or newer is needed"):
        upstream.main([str(old), "--config", "own"])


def test_a_checkout_that_cannot_be_written_is_refused(checkout, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UserError, match=f"{checkout} cannot be written to"):
        upstream.main([str(checkout), "--config", "own"])


def test_missing_library_names_the_extra(checkout, monkeypatch):
    (checkout / "threestudio" / "__init__.py").write_text("import no_such_library")
    monkeypatch.setattr(sys, "path", [*sys.path])
    # This process runs on the bundled host, which refuses a threestudio beside it.
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if "Refuse" not in repr(f)])
    monkeypatch.setattr(upstream_run, "install", lambda: [])
    with pytest.raises(UserError, match=r"no_such_library.*threestudio-asd\[upstream\]"):
        upstream_run.prepare(checkout)


def test_wrapped_errors_are_found():
    try:
        try:
            raise UserError("the cause")
        except UserError as error:
            raise ValueError("a library's wrapping") from error
    except ValueError as wrapped:
        assert str(upstream_run._user_error(wrapped)) == "the cause"
    assert upstream_run._user_error(ValueError("a bug")) is None
