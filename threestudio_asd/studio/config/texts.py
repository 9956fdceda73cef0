"""Keys whose type is text hold the text that was written, not what YAML makes of it.

YAML reads ``a red mug #1`` as "a red mug", ``a robot: blue`` as a mapping, ``yes`` as true and
``12:30`` as 750. Keys of other types are YAML, as in threestudio; in texts, too, ``${...}`` refers
to another key.
"""

import json
import re
import shlex
import typing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any

import yaml
from omegaconf import AnyNode, DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from threestudio_asd import log
from threestudio_asd.errors import NotRegisteredError, UserError
from threestudio_asd.studio.config.structured import escape, first_line, type_members
from threestudio_asd.studio.registry import find

_NULLS = ("", "~", "null", "Null", "NULL")
UNREADABLE = (OmegaConfBaseException, yaml.YAMLError, ValueError)


class Unknown:
    """The type of a key whose section names a class that is not registered (yet)."""


@dataclass(frozen=True)
class Argument:
    """``key=value`` of a command line."""

    key: str
    text: str

    @classmethod
    def parse(cls, argument: str) -> "Argument":
        """Raises UserError for what is no ``key=value``, or no text."""
        key, equals, text = argument.partition("=")
        if argument.startswith("-") or not equals:
            raise UserError(
                f'"{argument}" is neither an option nor key=value;'
                ' quote values with spaces: key="a value".'
            )
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{key}={text!r} is not valid UTF-8: type it in a terminal that uses UTF-8."
            ) from error
        return cls(key, text)

    def __str__(self) -> str:
        return f"{self.key}={self.text if self.text.isprintable() else json.dumps(self.text)}"

    def as_yaml(self) -> DictConfig:
        """The value as YAML reads it; raises one of ``UNREADABLE`` if it cannot."""
        return OmegaConf.from_dotlist([f"{self.key}={self.text}"])

    def typed(self, experiment: DictConfig, top: type) -> DictConfig:
        """The value in the type that the key has in ``experiment``, a mapping of ``top``'s fields.

        Raises:
            UserError: YAML cannot read the value of a key that is no text.
        """
        path = self.key.split(".")
        hint = key_type(experiment, top, path)
        if is_text(hint):
            null = type(None) in type_members(hint) and self.text in _NULLS
            return self._holding(None if null else self._plain())
        try:
            return with_texts(self.as_yaml(), unquoted(self.text, path), experiment, top)
        except UNREADABLE as error:
            # What an unknown class makes of the text is told when it is known, or missed.
            if hint is Unknown or isinstance(error, GrammarParseError):
                return self._holding(self.text)
            problem = getattr(error, "problem", None) or first_line(error)
            quoted = shlex.quote(f"{self.key}={json.dumps(self.text, ensure_ascii=False)}")
            raise UserError(
                f"{self} cannot be read: the value is not valid YAML ({problem})."
                f" If a text is meant, quote it: {quoted}"
            ) from error

    def _plain(self) -> str:
        """The text itself; two quotes with nothing between them are an empty one."""
        if self.text in ("''", '""'):
            return ""
        if self.text == "???":
            raise UserError(
                f"{self.key}=??? leaves the value open: three question marks alone are no text;"
                ' write one more character, such as "???!".'
            )
        if re.fullmatch(r"""(?s)'[^']*'|"[^"]*\"""", self.text):
            _tell_quotes(self.key, self.text)
        return self.text

    def _holding(self, value: str | None) -> DictConfig:
        holder = OmegaConf.create()
        try:
            OmegaConf.update(holder, self.key, value)
        except GrammarParseError as error:
            escaped = shlex.quote(str(Argument(self.key, escape(self.text))))
            raise UserError(
                f"{self} cannot be read: ${{...}} stands for another key's value"
                f" ({first_line(error)}). If the characters are meant, write \\${{: {escaped}"
            ) from error
        except OmegaConfBaseException as error:
            raise UserError(f"{self} cannot be read: {first_line(error)}") from error
        return holder


@cache
def _tell_quotes(key: str, text: str) -> None:
    log.warn("%s is taken with its quotes: %s (they are not needed)", key, text)


def readable(arguments: Iterable[Argument]) -> Iterator[DictConfig]:
    """The ``arguments`` that are valid YAML."""
    for argument in arguments:
        with suppress(*UNREADABLE):
            yield argument.as_yaml()


def unquoted(source: str, above: Sequence[str] = ()) -> list[tuple[tuple[str, ...], str]]:
    """Path (below the keys ``above``) and text of every unquoted scalar of the YAML ``source`` that
    is reached through mappings alone. Raises ``yaml.YAMLError``."""
    return list(_unquoted(yaml.compose(source, yaml.SafeLoader), tuple(above)))


def _unquoted(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield from _unquoted(value, (*path, key.value))
    elif isinstance(node, yaml.ScalarNode) and not node.style and path:
        yield path, node.value


def with_texts(
    part: DictConfig,
    written: Iterable[tuple[tuple[str, ...], str]],
    experiment: DictConfig,
    top: type,
) -> DictConfig:
    """Give ``part`` the texts of ``experiment`` as they are ``written`` in the YAML that it comes
    from: ``tag: 12:30`` is no number. Null stays null.

    Returns:
        ``part`` itself.
    """
    for path, text in written:
        holder = _descend(part, path[:-1])
        node = None if holder is None else holder._get_node(path[-1])
        is_number = isinstance(node, AnyNode) and isinstance(node._value(), int | float)
        if is_number and is_text(key_type(experiment, top, path)):
            holder[path[-1]] = text
    return part


def key_type(experiment: DictConfig, top: type, path: Sequence[str]) -> Any:
    """The annotation of the key at ``path``: Any where no class has it, :class:`Unknown` where the
    class is not registered.

    A section is a dataclass's field of a dataclass's type, or a pair of keys ``<part>_type``, a
    registered name, and ``<part>``, the fields of its ``Config``.
    """
    section: Any = experiment
    owner: Any = top
    for name in path[:-1]:
        owner = _fields_of(owner, section, name)
        if owner in (Any, Unknown):
            return owner
        section = _descend(section, [name])
    return typing.get_type_hints(owner).get(path[-1], Any)


def is_text(hint: Any) -> bool:
    """Whether a key of this type is text (or null)."""
    return str in type_members(hint) and set(type_members(hint)) <= {str, type(None)}


def _fields_of(owner: type, section: Any, name: str) -> Any:
    """The dataclass of the section ``name``."""
    hint = typing.get_type_hints(owner).get(name)
    if is_dataclass(hint):
        return hint
    defaults = {f.name: f.default for f in fields(owner) if f.default is not MISSING}
    kind = defaults.get(f"{name}_type")
    try:
        kind = (section and section.get(f"{name}_type")) or kind
        found = getattr(find(str(kind)), "Config", Any) if kind else Any
    except (NotRegisteredError, OmegaConfBaseException):
        return Unknown
    return found if is_dataclass(found) else Any


def _descend(section: DictConfig | None, path: Sequence[str]) -> DictConfig | None:
    """The mapping at ``path``, if there is one."""
    for name in path:
        node = None if section is None else section._get_node(name)
        section = node if isinstance(node, DictConfig) and not node._is_none() else None
    return section
