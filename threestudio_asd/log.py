"""Messages to the person at the terminal: threestudio's ``info``, ``debug`` and ``warn``."""

import logging
import warnings
from contextlib import suppress
from functools import cache
from typing import Any

logger = logging.getLogger("threestudio_asd")

debug = logger.debug
info = logger.info
warn = logger.warning


@cache
def console() -> Any:
    """The one rich console (on stderr) that messages and progress share."""
    from rich.console import Console

    return Console(stderr=True)


class _ConsoleHandler(logging.Handler):
    """One line a message, whatever the terminal's width: paths stay whole."""

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.levelname:<7} {self.format(record)}"
        style = "yellow" if record.levelno >= logging.WARNING else None
        # Where the terminal is closed there is nobody to tell, and no reason to end the work.
        with suppress(OSError):
            console().print(text, style=style, soft_wrap=True, markup=False, highlight=False)


def setup_logging(verbose: bool = False) -> None:
    """Print messages on stderr; ``verbose`` shows debug messages, too."""
    if not logger.handlers:
        logger.addHandler(_ConsoleHandler())
        logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


def quiet_lightning() -> None:
    """Lightning's own messages: errors only. (Importing Lightning resets their level.)"""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|torch\.utils")
