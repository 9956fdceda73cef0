"""Where caches, temporary files and outputs go on this machine; a section of ``doctor``."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from threestudio_asd import homes, requirements
from threestudio_asd.errors import UserError
from threestudio_asd.pretrained import hub

Mark = Literal["yes", "partly", "no"]
Found = tuple[str, Mark, str]


def places() -> Iterator[Found]:
    """(what, whether it is well, where or why not).

    Raises:
        UserError: There is no temporary folder.
    """
    home = Path(os.path.expanduser("~"))
    reason = homes.unwritable(home)
    yield "home", "partly" if reason else "yes", f"{home} ({reason})" if reason else str(home)
    yield _cache("kernels", homes.kernels())
    if requirements.installed("huggingface_hub"):
        yield _cache("models", hub.hub_cache())
    yield "temporary files", "yes", str(homes.temporary())
    here = Path.cwd()
    if reason := homes.unwritable(here):
        yield "outputs", "partly", f"{here} ({reason}); run elsewhere, or give exp_root_dir=..."
    else:
        yield "outputs", "yes", str(here / "outputs")


def _cache(name: str, cache: homes.Cache) -> Found:
    reason = homes.unwritable(cache.usual)
    if reason is None:
        return name, "yes", str(cache.usual)
    try:
        instead = cache.replacement()
    except UserError as error:
        return name, "no", str(error)
    return name, "partly", f"{instead}, not {cache.usual} ({reason}); to choose, {cache.remedy}"
