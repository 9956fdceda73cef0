"""Modules that import, and say why they do nothing more when they are used."""

from collections.abc import Callable
from typing import Any, NoReturn

from threestudio_asd.errors import UserError


class Refusal:
    """Stands for a function or class of a missing library; calling it raises."""

    def __init__(self, name: str, advice: str) -> None:
        self._name, self._advice = name, advice

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise UserError(f"{self._name} is called, but {self._advice}")

    def __repr__(self) -> str:
        return f"<placeholder of {self._name}>"


def refusing(module: str, advice: str) -> Callable[[str], Refusal]:
    """A module's ``__getattr__`` that gives a :class:`Refusal` for every public name.

    Args:
        advice: what the error says after "... is called, but ".
    """

    def __getattr__(name: str) -> Refusal:
        if name.startswith("_"):
            raise AttributeError(f"module {module} has no attribute {name}")
        return Refusal(f"{module}.{name}", advice)

    return __getattr__


def missing(module: str) -> Callable[[str], Refusal]:
    """:func:`refusing` for a library that is not installed."""
    library = module.split(".")[0]
    return refusing(module, f"{library} is not installed: pip install {library}.")
