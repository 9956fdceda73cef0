"""Where a training step waits for the device."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from .setup import Setup, going_on
from .trainings import Training, geometry, images, nerf, run


def waits(setup: Setup) -> None:
    """Where a training step waits for the device: how often, by our innermost line.

    As torch counts: waits of Warp, and explicit ones, are not among them. Those of a backward pass
    count for the line that asked for it.
    """
    warm, counted = (1, 1) if setup.reduced else (10, 10)
    figures: dict[str, Any] = {"warm_up_steps": warm, "steps": counted}
    if not setup.cuda:
        reason = "only torch on CUDA tells of its synchronisations"
        setup.tell(figures | {"trainings": None, "reason": reason, "headline": f"none: {reason}"})
        return
    figures["trainings"] = {}
    for name, training in {"nerf": nerf, "geometry": geometry, "2d": images}.items():
        with going_on(figures, name):
            figures["trainings"][name] = count_waits(setup, training, warm, counted)
        counts = (f"{n} {f['per_step']}" for n, f in figures["trainings"].items())
        figures["headline"] = "waits per step: " + ", ".join(counts)
        setup.tell(figures)


def count_waits(setup: Setup, training: Training, warm: int, counted: int) -> dict[str, Any]:
    """The waits of a step of ``training``: their number, and that of each line."""
    from training import Enough

    found: Counter[tuple[str, str | None]] = Counter()

    with recorded_waits(found) as listen:

        def on_step(step: int) -> None:
            if step == warm:
                setup.synchronize()
                torch.cuda.set_sync_debug_mode("warn")
            elif step == warm + counted:
                torch.cuda.set_sync_debug_mode("default")
                raise Enough
            if step >= warm:
                listen()  # in each step: other libraries put filters of their own before it

        try:
            run(setup, training, on_step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    rows = [
        {"line": line, "in": inner, "per_step": round(n / counted, 2)}
        for (line, inner), n in found.most_common()
    ]
    return {"per_step": round(found.total() / counted, 2), "lines": rows}


#: What torch says of a wait, in the mode "warn".
WAIT = "called a synchronizing CUDA operation"


@contextmanager
def recorded_waits(found: Counter[tuple[str, str | None]]) -> Iterator[Callable[[], None]]:
    """Counts torch's warnings of waits by :func:`origin`, in any thread, instead of showing them.

    Others are shown as before. Yields what takes hold of warnings once more.
    """
    with warnings.catch_warnings():
        show = warnings.showwarning

        def record(message: Warning | str, *args: Any, **kwargs: Any) -> None:
            if WAIT in str(message):
                found[origin(sys._getframe(1))] += 1
            else:
                show(message, *args, **kwargs)

        def listen() -> None:
            warnings.showwarning = record
            warnings.filterwarnings("always", message=f".*{WAIT}")

        listen()
        yield listen


def origin(frame: FrameType | None) -> tuple[str, str | None]:
    """(file:line of this package's innermost frame, that of a frame further in if there is one).

    A wait below no line of ours has the innermost line of any package instead.
    """
    import threestudio_asd

    package = Path(threestudio_asd.__file__).absolute().parent
    inner = None
    while frame is not None:
        file = Path(frame.f_code.co_filename).absolute()
        if file.is_relative_to(package):
            return f"{file.relative_to(package.parent)}:{frame.f_lineno}", inner
        if inner is None and file.name not in ("warnings.py", Path(__file__).name):
            inner = f"{_as_imported(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return inner or "unknown", None


def _as_imported(file: Path) -> Path:
    """Relative to the folder of ``sys.path`` in which it lies, as an import names it."""
    folders = [Path(entry).absolute() for entry in sys.path if entry]
    around = [folder for folder in folders if file.is_relative_to(folder)]
    return file.relative_to(max(around, key=lambda f: len(f.parts), default=file.parent))
