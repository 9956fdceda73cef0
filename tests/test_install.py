"""What a user gets from a wheel: the package, its configs and its weights, and nothing missing."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# This Python, but it says that it is an older one.
OLD = """\
import runpy, sys
sys.version_info = (3, 10, 13, "final", 0)
sys.argv = {argv}
runpy.{run}(sys.argv[0], run_name="__main__")
"""


def run(*command, cwd, **kwargs):
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        **kwargs,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_in_a_new_environment_trains_from_an_empty_folder(tmp_path):
    wheels, place, empty = (tmp_path / name for name in ("wheels", "venv", "empty"))
    empty.mkdir()
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    run(*build, "--wheel-dir", wheels, ROOT, cwd=tmp_path)
    venv.create(place, with_pip=False)
    # The dependencies are this environment's (downloading them again would test the index, not
    # us). Its own .pth files, the editable install among them, are not followed from here.
    (site,) = place.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = wheels.glob("threestudio_asd-*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--quiet"]
    run(*install, "--target", site, wheel, cwd=tmp_path)
    python = place / "bin/python"
    where = run(python, "-c", "import threestudio_asd; print(threestudio_asd.__file__)", cwd=empty)
    assert str(site) in where
    run(
        *(python, "-m", "threestudio_asd.cli.main", "launch", "--config", "tiny/asd-2d", "--train"),
        *("system.prompt_processor.prompt=a red mug", "trainer.max_steps=5"),
        *("use_timestamp=false", "tag=run"),
        cwd=empty,
        timeout=240,
    )
    trial = empty / "outputs/asd-2d-tiny/run"
    assert (trial / "save/it5-test.png").is_file()
    assert (trial / "ckpts/last.ckpt").is_file()


def old_python(run, *argv, **options):
    command = [sys.executable, "-c", OLD.format(argv=list(argv), run=run)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.mark.parametrize("command", [("doctor",), ("launch", "--config", "tiny/asd-nerf")])
def test_commands_tell_an_old_python_in_one_line(command):
    done = old_python("run_module", "threestudio_asd.cli.main", *command, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == "error: Python 3.10.13 is too old (needed: 3.11 or newer).\n"


def test_make_tells_an_old_python_before_it_makes_or_downloads_anything(tmp_path):
    for name in ("Makefile", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "threestudio_asd").mkdir()
    shutil.copy(ROOT / "threestudio_asd/requirements.py", tmp_path / "threestudio_asd")
    program = tmp_path / "python3.10"
    code = OLD.format(argv="sys.argv[1:]", run="run_path")
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' - \"$@\" <<'END'\n{code}END\n")
    program.chmod(0o755)
    command = ["make", "setup", f"PYTHON={program}"]
    # As typed in a shell, also if make runs these tests.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(command, cwd=tmp_path, env=plain, capture_output=True, text=True)
    message, stopped = done.stderr.splitlines()
    assert message == (
        "Python 3.10.13 is too old (needed: 3.11 or newer); choose another:"
        " make setup PYTHON=python3.11"
    )
    assert stopped.startswith("make: ***") and done.returncode == 2
    assert not (tmp_path / ".venv").exists()
