"""The process that ``threestudio-asd upstream`` starts in the checkout's folder.

It prepares threestudio, registers the plugin and runs ``launch.py`` as the main program. It stays
``__main__`` itself: a process that threestudio spawns (to embed prompts) then imports this module
first, as ``__mp_main__``, and has the stand-ins too.
"""

import importlib
import os
import sys
import warnings
from pathlib import Path

import torch

import threestudio_asd
from threestudio_asd.errors import UserError
from threestudio_asd.portable import adapt_to_cpu, install


def main() -> int:
    """Run the checkout in the working directory; returns the exit code."""
    try:
        prepare(Path.cwd())
        sys.argv[0] = "launch.py"
        source = Path("launch.py").resolve()
        launch = compile(source.read_text(encoding="utf-8"), str(source), "exec")
        exec(launch, {"__name__": "__main__", "__file__": str(source)})
    except Exception as error:
        message = _user_error(error)
        if message is None or "--verbose" in sys.argv:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0


def prepare(checkout: Path) -> None:
    """Import the checkout's threestudio, for CUDA or the CPU, and register the plugin.

    Raises:
        UserError: if a library that threestudio or the plugin needs is missing.
    """
    sys.path.insert(0, str(checkout))
    # threestudio's checkpoints hold configs: its stages and resume= read them by torch.load, whose
    # default was to allow that when threestudio was written.
    os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    cuda = torch.cuda.is_available()
    install()
    try:
        threestudio = importlib.import_module("threestudio")
    except ImportError as error:
        raise UserError(
            f"threestudio cannot be imported: {error}. Install what it needs:"
            " pip install threestudio-asd[upstream]"
        ) from error
    if not cuda:
        adapt_to_cpu()
        threestudio.info("threestudio-asd: no CUDA device; threestudio runs on the CPU.")
    from threestudio_asd import dropin

    dropin.activate(Path(threestudio_asd.__file__).parent.parent)


def _user_error(error: BaseException | None) -> UserError | None:
    """The error itself, or the one that a library has wrapped."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


# threestudio's decorators warn several dozen times, in every process.
warnings.filterwarnings("ignore", r".*torch\.cuda\.amp", FutureWarning)

if __name__ == "__main__":
    sys.exit(main())
if __name__ == "__mp_main__":
    install(quiet=True)
