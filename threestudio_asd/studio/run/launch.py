"""``launch``: train, validate, test or export what a config describes."""

import argparse
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from typing import Any

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.stop import heeded
from threestudio_asd.studio.config.experiment import read_config, resolve_config
from threestudio_asd.studio.config.files import find_config
from threestudio_asd.studio.config.trials import folder_instead
from threestudio_asd.studio.run.extensions import load_extensions

BUILTINS = ("threestudio_asd.studio.data", "threestudio_asd.studio.models")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f"{message} (see --help)")


def parser(prog: str = "launch.py") -> argparse.ArgumentParser:
    """The options; everything else on the command line is ``key=value``."""
    p = _Parser(prog=prog, description=__doc__, allow_abbrev=False)
    p.add_argument("--config", required=True, help="path or short name of a config")
    p.add_argument("--gpu", default="0", help="which CUDA device, counted from 0")
    task = p.add_mutually_exclusive_group(required=True)
    task.add_argument("--train", action="store_true", help="train, then test")
    task.add_argument("--validate", action="store_true", help="render the validation views")
    task.add_argument("--test", action="store_true", help="render the test views")
    task.add_argument("--export", action="store_true", help="write the mesh")
    p.add_argument("--verbose", action="store_true", help="debug messages, tracebacks")
    p.add_argument("--typecheck", action="store_true", help="check tensor shapes while running")
    p.add_argument("--gradio", action="store_true", help=argparse.SUPPRESS)
    return p


@heeded()
def main(
    argv: Sequence[str],
    plugins: Sequence[str] = (),
    prog: str = "launch.py",
    go_on: str | None = None,
) -> Signals | None:
    """Run the command line ``argv``.

    Args:
        plugins: modules to import after the built-in ones; they register names and resolvers.
        go_on: a sentence that says how a stopped training goes on; default: by the launcher.

    Returns:
        SIGINT if it ended the training early; the test followed.

    Raises:
        UserError: whatever the person at the keyboard can put right.
        Stopped: SIGTERM or SIGHUP; a training has saved its last step.
    """
    args, overrides = parser(prog).parse_known_args(list(argv))
    if args.gradio:
        raise UserError("--gradio is not implemented in the bundled host; run without it.")
    log.setup_logging(args.verbose)
    source = find_config(args.config)
    # All that can be known to be wrong is said before the imports, which take seconds.
    raw = read_config(source, cli_args=overrides)
    _require_file("resume", raw.get("resume"))
    choose_gpu(args.gpu)
    if args.typecheck:
        _check_types()
    for module in (*BUILTINS, *plugins):
        importlib.import_module(module)
    load_extensions()

    from threestudio_asd.studio.run.execute import run

    # Once more: by now it is known which keys are texts.
    raw = read_config(source, cli_args=overrides)
    cfg = resolve_config(raw)
    # A trial that is gone on with has its time from its own config.
    new = cfg.use_timestamp and None in (cfg.resume, raw.get("timestamp"))
    return run(args, source, cfg, go_on, new)


def choose_gpu(gpu: str) -> None:
    """Show CUDA this device only; as in threestudio, an existing CUDA_VISIBLE_DEVICES wins."""
    if not gpu.isdigit():
        raise UserError(f"--gpu {gpu}: the bundled host trains on one device; give its number.")
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", gpu)


def _require_file(key: str, path: Any) -> None:
    if path is not None and Path(str(path)).is_dir():
        raise UserError(f"{key}={path}: {folder_instead(Path(str(path)))}")
    if path is not None and not Path(str(path)).is_file():
        raise UserError(f"{key}={path}: the checkpoint does not exist (or is not a file).")


def _check_types() -> None:
    try:
        import beartype  # noqa: F401
        from jaxtyping import install_import_hook
    except ImportError as error:
        raise UserError("--typecheck needs beartype: pip install beartype.") from error
    install_import_hook("threestudio_asd", "beartype.beartype")
