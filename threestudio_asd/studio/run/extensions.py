"""Code that registers names: modules of this project, and what lies in ``custom/``."""

import importlib
import importlib.util
import sys
from pathlib import Path

from threestudio_asd import log
from threestudio_asd.studio.registry import note_failed_extension

_met: set[Path] = set()


def load_extensions(folder: Path = Path("custom")) -> None:
    """Import every package and ``.py`` file of ``folder``, each once in a process; names ending in
    ``_disabled`` rest.

    One that fails is reported and left out; a name that is missing later points to it.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        source = path / "__init__.py" if path.is_dir() else path
        is_module = source.suffix == ".py" and source.is_file()
        if not is_module or path.stem.endswith("_disabled") or source.resolve() in _met:
            continue
        _met.add(source.resolve())
        try:
            _import_file(path.stem if path.is_file() else path.name, source)
        except Exception as error:  # whatever a stranger's code raises
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            log.warn("extension %s failed to load and is left out: %s", path, reason)
            log.debug("its traceback:", exc_info=True)
            note_failed_extension(str(path), reason)


def _import_file(name: str, source: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, source)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
