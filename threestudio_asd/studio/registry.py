"""Names in configs and the classes they stand for."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import TypeVar

from threestudio_asd.errors import AlreadyRegisteredError, NotRegisteredError
from threestudio_asd.studio import elsewhere

T = TypeVar("T", bound=type)

_modules: dict[str, type] = {}
_failed_extensions: dict[str, str] = {}


def register(name: str) -> Callable[[T], T]:
    """Class decorator: configs may refer to the class as ``name``.

    Raises:
        AlreadyRegisteredError: another class has this name.
    """

    def decorator(cls: T) -> T:
        if name in _modules:
            other = _modules[name]
            raise AlreadyRegisteredError(
                f'"{name}" is already registered by {other.__module__}.{other.__qualname__};'
                f" {cls.__module__}.{cls.__qualname__} needs another name"
                " (extensions prefix theirs, or a custom/ folder holds the same extension twice)."
            )
        _modules[name] = cls
        return cls

    return decorator


def find(name: str) -> type:
    """The class registered as ``name``; ``"a:b,c"`` makes a new class with bases (b, c, a).

    Raises:
        NotRegisteredError: no class has this name; the message lists the nearest names.
    """
    if ":" not in name:
        return _lookup(name)
    main, _, mixins = name.partition(":")
    bases = [_lookup(part) for part in [*mixins.split(","), main]]
    return type(f"{main}.{mixins}", tuple(bases), {})


def names() -> list[str]:
    """All registered names, sorted."""
    return sorted(_modules)


def note_failed_extension(path: str, reason: str) -> None:
    """Remember that an extension did not load: a later unknown name is probably its own."""
    _failed_extensions[path] = reason


def _lookup(name: str) -> type:
    if name in _modules:
        return _modules[name]
    if not name:
        raise NotRegisteredError(
            "the config leaves a module's name empty: set data_type, system_type and"
            " system.<part>_type for every part that the system builds."
        )
    if told := elsewhere.advice(name):
        raise NotRegisteredError(told)
    near = get_close_matches(name, _modules, n=3, cutoff=0.5)
    parts = [f'nothing is registered as "{name}".']
    if near:
        parts.append("Nearest: " + ", ".join(near) + ".")
    for path, reason in _failed_extensions.items():
        parts.append(f"The extension {path} failed to load ({reason}); it may define this name.")
    parts.append(
        "Extensions register their names when they are imported: put the extension's folder into"
        " custom/ of the folder you launch from."
    )
    raise NotRegisteredError(" ".join(parts))
