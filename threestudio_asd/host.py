"""The seam: the names of threestudio's extension API, from whichever host runs.

*upstream*: a real threestudio is already imported (its launcher loads us from ``custom/``); we
use its registry and base classes. *bundled*: otherwise, :mod:`threestudio_asd.studio`. The choice
is made when this module is first imported; importing the other host afterwards raises.
"""

import sys
from importlib.abc import MetaPathFinder
from typing import Any

NAME: str = "upstream" if hasattr(sys.modules.get("threestudio"), "__modules__") else "bundled"

if NAME == "upstream":
    from omegaconf import OmegaConf
    from threestudio import debug, find, info, register, warn
    from threestudio.models.prompt_processors.base import PromptProcessorOutput
    from threestudio.systems.base import BaseLift3DSystem, BaseSystem
    from threestudio.utils.base import BaseModule, BaseObject, Updateable
    from threestudio.utils.config import parse_structured
    from threestudio.utils.misc import C, cleanup, get_device

    def register_resolver(name: str, function: Any) -> None:
        """Make ``${name:...}`` call ``function`` in configs."""
        if not OmegaConf.has_resolver(name):
            add = getattr(OmegaConf, "register_resolver", None) or OmegaConf.register_new_resolver
            add(name, function)

else:
    from threestudio_asd.log import debug, info, warn
    from threestudio_asd.studio.base import BaseModule, BaseObject, Updateable
    from threestudio_asd.studio.config.schedule import C
    from threestudio_asd.studio.config.structured import parse_structured, register_resolver
    from threestudio_asd.studio.device import cleanup, get_device
    from threestudio_asd.studio.models.prompt_processor import PromptProcessorOutput
    from threestudio_asd.studio.registry import find, register
    from threestudio_asd.studio.systems.base import BaseSystem
    from threestudio_asd.studio.systems.lift3d import BaseLift3DSystem

    class _RefuseUpstream(MetaPathFinder):
        """Two registries in one process would each hold half of the names."""

        def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
            if fullname == "threestudio":
                raise ImportError(
                    "threestudio cannot be imported now: threestudio_asd already runs on its"
                    " bundled host. Import threestudio first, or use another process."
                )

    sys.meta_path.insert(0, _RefuseUpstream())

__all__ = [
    "NAME",
    "BaseLift3DSystem",
    "BaseModule",
    "BaseObject",
    "BaseSystem",
    "C",
    "PromptProcessorOutput",
    "Updateable",
    "cleanup",
    "debug",
    "find",
    "get_device",
    "info",
    "parse_structured",
    "register",
    "register_resolver",
    "warn",
]
