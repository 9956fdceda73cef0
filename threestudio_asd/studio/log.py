"""Messages to the person at the terminal: threestudio's ``info``, ``debug`` and ``warn``."""

import logging
import warnings
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


def setup_logging(verbose: bool = False) -> None:
    """Print messages through rich; ``verbose`` shows debug messages, too."""
    from rich.logging import RichHandler

    if not logger.handlers:
        handler = RichHandler(console=console(), show_time=False, show_path=False)
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


def quiet_lightning() -> None:
    """Lightning's own messages: errors only. (Importing Lightning resets their level.)"""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|torch\.utils")
