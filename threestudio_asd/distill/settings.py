"""Numbers of a method beside its guidance scale, such as the weights of further predictions.

What uses one declares it with its default where it is registered (``settings={"weight": 0.5}``); a
row of the table may choose another default, a config another value or a schedule of one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from threestudio_asd.errors import UserError


class Settings(dict[str, float]):
    """Values by name; an undeclared one is a UserError that says who asked.

    Args:
        values: The values.
        reader: Who reads, for the message.
    """

    def __init__(self, values: Mapping[str, float] = {}, reader: str = "this step") -> None:
        super().__init__(values)
        self.reader = reader

    def __missing__(self, name: str) -> float:
        raise UserError(
            f"There is no setting '{name}' for {self.reader}, which declares "
            f"{', '.join(self) or 'none'}; name it where it is registered (settings=...)."
        )

    def limited(self, names: Iterable[str], reader: str) -> "Settings":
        """Those that ``reader`` declared."""
        return Settings({name: self[name] for name in names}, reader)


def at_start(value: int | float | Sequence[int | float]) -> float:
    """A setting's value before the first step: the number, or a schedule's first value.

    Example:
        >>> at_start([0, -1.0, -0.5, 10000])
        -1.0
    """
    if isinstance(value, int | float):
        return float(value)
    return float(value[0] if len(value) == 3 else value[1])


def merged(
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
    where: str,
    owner: str,
    others: Callable[[str], Sequence[str]] = lambda name: (),
) -> dict[str, Any]:
    """``defaults`` with the values of ``given``.

    Args:
        where: What ``given`` is, for the message.
        owner: Whose settings they are.
        others: Who else has a setting of that name.

    Raises:
        UserError: ``given`` names what ``owner`` does not have.
    """
    for name in given:
        if name not in defaults:
            near, elsewhere = get_close_matches(name, defaults, n=1), others(name)
            known = f"its settings: {', '.join(sorted(defaults)) or 'none'}."
            advice = f"did you mean {near[0]}?" if near and not elsewhere else known
            theirs = f" but of {', '.join(elsewhere)}" if elsewhere else ""
            raise UserError(f"{where} has '{name}', no setting of {owner}{theirs}; {advice}")
    return {**defaults, **given}
