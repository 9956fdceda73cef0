"""The drop-in: what happens when threestudio's launcher imports us from its ``custom/`` folder.

Two folders lead here: a clone of the repository (its root ``__init__.py``), or the small one that
``threestudio-asd link`` writes (``template/``). threestudio catches whatever they raise, prints it
and goes on; so the message must be complete in itself.

Until the requirements are checked, this runs on any Python that threestudio runs on (3.8).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import threestudio_asd
from threestudio_asd import requirements
from threestudio_asd.errors import UserError

#: All that we add to threestudio's registry.
NAMES = (
    *("stable-diffusion-asd-guidance", "truth-pixels-guidance", "truth-score-guidance"),
    *("asd-system", "nerf-system-asd", "asd-2d-system", "random-grey-background"),
)
RESOLVER = "asd_model"


class DropInError(UserError, ImportError):
    """The plugin cannot work in this threestudio; the message is one paragraph."""


def activate(folder: Path) -> None:
    """Register ``NAMES`` and the ``${asd_model:...}`` resolver on the running threestudio.

    Where no threestudio runs (the bundled host reads ``custom/`` as well) nothing happens. It may
    be called again.

    Args:
        folder: The folder in ``custom/`` that asks for it.

    Raises:
        DropInError: Something is missing or too old, a name is taken, or the plugin's own import
            fails; the message says what and how to mend it.
    """
    threestudio = sys.modules.get("threestudio")
    if threestudio is None:
        return
    try:
        _check(threestudio)
        _register()
    except DropInError as error:
        _repeat_at_the_end(f"{error} (It was imported from {folder}.)")
        raise
    running = Path(threestudio_asd.__file__).parent
    beside = folder / "threestudio_asd"
    if beside.is_dir() and beside.resolve() != running.resolve():
        threestudio.info(f"threestudio-asd runs from {running}, loaded before; not from {folder}.")


def _check(threestudio: Any) -> None:
    too_old = requirements.python_problem()
    if too_old:
        raise _error(too_old, "make threestudio's environment with a newer Python, such as 3.12.")
    version = getattr(threestudio, "__version__", "of unknown version")
    registry = getattr(threestudio, "__modules__", None)
    if registry is None or requirements.older(version, requirements.THREESTUDIO):
        raise _error(
            f"threestudio {version} is too old (needed: {requirements.THREESTUDIO})",
            "update the checkout (git pull in its folder), then its requirements.",
        )
    lacking = requirements.problems(requirements.PLUGIN, try_import=True)
    if lacking:
        raise _error("; ".join(lacking.values()), f"{requirements.install_command(lacking)} .")
    owners = {name: registry[name].__module__ for name in NAMES if name in registry}
    ours = "threestudio_asd."
    foreign = {name: owner for name, owner in owners.items() if not owner.startswith(ours)}
    if foreign:
        raise _error(
            "; ".join(f"{name} is already registered by {foreign[name]}" for name in foreign),
            "keep one of the two extensions (threestudio leaves out the folders in custom/ whose"
            " names end in _disabled).",
        )


def _register() -> None:
    try:
        import threestudio_asd.guidance
        import threestudio_asd.systems  # noqa: F401
    except Exception as error:  # a library that is there and does not fit may raise anything
        raise _error(
            f"its import failed with {type(error).__name__}: {error}",
            "the traceback names the place; threestudio-asd doctor shows all versions.",
        ) from error


def _error(cause: str, fix: str) -> DropInError:
    return DropInError(
        f"threestudio-asd cannot be used in this threestudio: {cause}. To mend it: {fix}"
        f" Until then {', '.join(NAMES)} and ${{{RESOLVER}:...}} are unknown to your configs."
    )


def _repeat_at_the_end(message: str) -> None:
    """Say it once more if the process dies of the missing names.

    threestudio goes on after a failed import, and a config that needs us ends some pages later in
    ``KeyError: 'asd-system'``, which tells nobody why. Placeholder classes in the registry would
    reach the same reader, but the registry would then claim modules that do not exist, to other
    extensions too. This hook only speaks when such an error ends the process.
    """
    previous = sys.excepthook

    def hook(kind: Any, error: BaseException, trace: Any) -> None:
        previous(kind, error, trace)
        if any(name in str(error) for name in (*NAMES, RESOLVER)):
            print(f"\n{message}", file=sys.stderr)

    sys.excepthook = hook
