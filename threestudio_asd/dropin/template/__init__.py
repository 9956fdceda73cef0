"""Written by ``threestudio-asd link``: lets threestudio find the installed threestudio-asd."""

import sys
from pathlib import Path

try:
    from threestudio_asd.dropin import activate
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("threestudio_asd"):
        raise
    raise ImportError(
        "threestudio-asd is linked into this threestudio, but not installed (or too old a release)"
        f" for the Python that runs it, {sys.executable}. To mend it: install it there, with"
        f" {sys.executable} -m pip install and what you installed it from; or delete the folder"
        f" {Path(__file__).parent}."
    ) from None

activate(Path(__file__).parent)
