"""Recognises checkouts of threestudio, and our drop-ins in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from threestudio_asd import homes
from threestudio_asd.errors import UserError
from threestudio_asd.requirements import THREESTUDIO, older

TEMPLATE = Path(__file__).parent / "template"
FOLDER = "threestudio-asd"


@dataclass(frozen=True)
class Checkout:
    """A threestudio checkout that loads extensions from ``custom/``."""

    path: Path
    version: str

    @property
    def dropin(self) -> Path:
        """Where our drop-in belongs."""
        return self.path / "custom" / FOLDER

    @property
    def state(self) -> str:
        """Drop-in: ``absent``, ``clone``, ``linked`` (also if outdated) or ``foreign``."""
        if not self.dropin.exists() and not self.dropin.is_symlink():
            return "absent"
        if (self.dropin / "threestudio_asd/dropin/__init__.py").is_file():
            return "clone"
        source = self.dropin / "__init__.py"
        if source.is_file() and source.read_text().startswith(_first_line()):
            return "linked"
        return "foreign"


def _first_line() -> str:
    return (TEMPLATE / "__init__.py").read_text().splitlines()[0]


def open_checkout(path: str | Path) -> Checkout:
    """The checkout at ``path``.

    Raises:
        UserError: It is none, or too old; the message says which.
    """
    path = homes.expanded(path).resolve()
    source, launcher = path / "threestudio/__init__.py", path / "launch.py"
    lacking = [str(file.relative_to(path)) for file in (launcher, source) if not file.is_file()]
    if lacking:
        raise UserError(
            f"{path} is no checkout of threestudio: it has no {' and no '.join(lacking)}. Give the"
            " folder that this made: git clone https://github.com/threestudio-project/threestudio"
        )
    found = re.search(r"""^__version__ *= *["']([^"']+)""", source.read_text(), re.MULTILINE)
    version = found.group(1) if found else "of unknown version"
    if older(version, THREESTUDIO) or "custom" not in launcher.read_text():
        raise UserError(
            f"{path} is threestudio {version}; {THREESTUDIO} or newer is needed. Update it with"
            " git pull."
        )
    return Checkout(path, version)
