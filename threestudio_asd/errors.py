"""Errors that speak to a person.

Every bad input ends in a :class:`UserError` whose message names the cause and the fix. The command
line prints that message alone (no traceback without ``--verbose``) and exits with code 2.

The subclasses also derive from the built-in exception that threestudio raises in the same place,
so that code written against threestudio's API catches them unchanged.
"""


class UserError(Exception):
    """Bad input or a bad environment; the message names the cause and the fix."""

    def __str__(self) -> str:
        # KeyError's own __str__ would print the repr of the message.
        return str(self.args[0]) if self.args else ""


class ConfigKeyError(UserError, TypeError):
    """A config holds a key that nothing reads, or a value of the wrong type."""


class DiskFullError(UserError, OSError):
    """A disk has no room for what was to be written."""


class NotRegisteredError(UserError, KeyError):
    """A config names a module that no one registered."""


class AlreadyRegisteredError(UserError, ValueError):
    """Two modules claim the same registered name."""
