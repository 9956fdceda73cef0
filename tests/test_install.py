"""What a user gets from a wheel: the package, its configs and its weights, and nothing missing."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent


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
