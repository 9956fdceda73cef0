"""The drop-in: threestudio's launcher imports this folder when it is cloned into ``custom/``.

Anywhere else it does nothing; the package is ``threestudio_asd``, beside this file. Python 3.8's
syntax, so that an older Python can be told that it is too old.
"""

import sys
from pathlib import Path


def _load_package(folder):
    """Put ``threestudio_asd`` into ``sys.modules`` from ``folder``, unless it is there already.

    Not by way of ``sys.path``: ``launch``, ``scripts``, ``tests`` and ``configs`` of this folder
    would become importable inside threestudio, which has its own. A clone goes before an
    installed copy: whoever clones into ``custom/`` expects that code to run.
    """
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    name = "threestudio_asd"
    if name in sys.modules and name != __name__:  # equal if the clone's folder has that name
        return
    spec = PathFinder.find_spec(name, [str(folder)])
    package = module_from_spec(spec)
    sys.modules[name] = package
    try:
        spec.loader.exec_module(package)
    except BaseException:
        del sys.modules[name]
        raise


if "threestudio" in sys.modules:
    _load_package(Path(__file__).parent)
    from threestudio_asd.dropin import activate

    activate(Path(__file__).parent)
