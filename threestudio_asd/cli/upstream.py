"""``upstream``: run the launcher of an unmodified threestudio checkout with this plugin."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import threestudio_asd
from threestudio_asd import homes
from threestudio_asd.cores import cores
from threestudio_asd.dropin.checkout import open_checkout
from threestudio_asd.errors import UserError
from threestudio_asd.studio.config.files import find_config

RUNNER = "threestudio_asd.cli.upstream_run"
DESCRIPTION = """\
Run the launch.py of an unmodified threestudio checkout, with this plugin registered: on CUDA as it
is, without CUDA on the CPU. Stand-ins replace compiled extensions that are missing or unusable."""
EPILOG = """\
All other arguments go to launch.py (--train, --validate, --test, --export, key=value ...). It runs
in the checkout's folder, as always: relative paths in key=value and the outputs are there. The
config may also be a file relative to your working directory, or one of this package's by its
short name."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f"{message} (see --help)")


def main(argv: Sequence[str]) -> int:
    """Run the command line ``argv``; returns the launcher's exit code.

    Raises:
        UserError: on a folder that is no checkout, too old or not writable, or an unknown config.
    """
    p = _Parser("threestudio-asd upstream", None, DESCRIPTION, EPILOG, allow_abbrev=False)
    p.add_argument("checkout", type=Path, help="folder of the threestudio checkout")
    p.add_argument("--config", required=True, help="path or short name of a config")
    p.add_argument("--gpu", default="0", help="as launch.py's; without CUDA it has no effect")
    args, others = p.parse_known_args(list(argv))
    checkout = _checkout(args.checkout)
    config = _config(args.config, checkout)
    command = [sys.executable, "-m", RUNNER, "--config", str(config), "--gpu", args.gpu, *others]
    return subprocess.run(command, cwd=checkout, env=_environment(args.gpu)).returncode


def _checkout(folder: Path) -> Path:
    path = open_checkout(folder).path
    if not os.access(path, os.W_OK):
        raise UserError(
            f"{path} cannot be written to, but threestudio keeps its outputs and caches there:"
            " use a checkout of your own."
        )
    return path


def _config(name: str, checkout: Path) -> Path:
    """From the working directory, the checkout, or the package; in this order."""
    for folder in (Path.cwd(), checkout):
        for file in (folder / name, folder / f"{name}.yaml"):
            if file.is_file():
                return file.resolve()
    return find_config(name).resolve()


def _environment(gpu: str) -> dict[str, str]:
    """Our package on the path; the GPU chosen as launch.py does, but before CUDA is probed; as many
    threads as there are cores to be had, which do not wait spinning for long: beside another
    program the waiting of torch's threads for each other would take nearly all of the time; a place
    for caches."""
    package = str(Path(threestudio_asd.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    chosen = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpu}
    threads = {"OMP_NUM_THREADS": str(cores()), "GOMP_SPINCOUNT": "1000"}
    return {**chosen, **threads, **os.environ, **homes.for_others(), "PYTHONPATH": path}
