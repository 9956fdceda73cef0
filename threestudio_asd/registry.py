"""A named table of functions that a user's own file can extend."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from threestudio_asd.errors import AlreadyRegisteredError, NotRegisteredError

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries by name; a wrong name is answered with the known ones.

    Args:
        kind: What an entry is called in messages, such as ``"source term"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """Add ``entry``; raises ``AlreadyRegisteredError`` if the name is taken."""
        if name in self._entries:
            raise AlreadyRegisteredError(
                f"The {self.kind} '{name}' is already registered; choose another name."
            )
        self._entries[name] = entry

    def get(self, name: str) -> T:
        """The entry called ``name``; raises ``NotRegisteredError`` that lists the known names."""
        if name not in self._entries:
            advice = f"choose one of: {', '.join(self)}" if self._entries else "none is registered"
            raise NotRegisteredError(f"Unknown {self.kind} '{name}'; {advice}.")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))
