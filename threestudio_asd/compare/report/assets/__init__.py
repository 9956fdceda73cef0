"""The page's style sheets, script and shaders."""

from pathlib import Path


def asset(name: str) -> str:
    """The text of a file beside this one."""
    return (Path(__file__).parent / name).read_text("utf-8")
