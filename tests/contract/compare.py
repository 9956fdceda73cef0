"""Differences between facts, and the table of those that are accepted."""

import fnmatch
import json
import math
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FACTS = HERE / "facts"
TABLE = HERE.parent.parent / "docs" / "threestudio.md"

# By the path's beginning: the larger one of an absolute and a relative tolerance holds.
TOLERANCES = {
    "statistics.": (0.05, 0.05),  # moments of a few thousand draws; random numbers differ
    "pictures.pixels.": (1.0, 0.0),  # one step of 255
    "": (2e-5, 2e-5),
}


def committed() -> dict[str, Any]:
    """The facts of threestudio in this repository, by section."""
    return read(FACTS)


def read(folder: Path) -> dict[str, Any]:
    """What :func:`write` wrote."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def write(facts: dict[str, Any], folder: Path) -> None:
    """One JSON file for each section."""
    for section, content in facts.items():
        (folder / f"{section}.json").write_text(dumps(content) + "\n")


def dumps(value: Any, indent: str = "") -> str:
    """JSON with one line for each key whose value is no mapping."""
    if not isinstance(value, dict):
        return json.dumps(value)
    if not value:
        return "{}"
    inner = indent + " "
    lines = [f"{inner}{json.dumps(k)}: {dumps(v, inner)}" for k, v in sorted(value.items())]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def normal(facts: Any) -> Any:
    """As JSON gives it back, with floats to seven digits."""
    if isinstance(facts, dict):
        return {str(k): normal(v) for k, v in facts.items()}
    if isinstance(facts, list | tuple):
        return [normal(v) for v in facts]
    if isinstance(facts, float) and math.isfinite(facts):
        rounded = float(f"{facts:.7g}")
        return 0.0 if abs(rounded) < 1e-7 else rounded
    return str(facts) if isinstance(facts, float) else facts


def differences(reference: Any, found: Any) -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (reference, found) of each fact that differs; an absent one is "absent"."""
    left, right = _leaves(reference), _leaves(found)
    paths = dict.fromkeys([*left, *right])
    pairs = {p: (left.get(p, "absent"), right.get(p, "absent")) for p in paths}
    return {path: pair for path, pair in pairs.items() if not _equal(path, *pair)}


def accepted() -> list[str]:
    """The patterns in the first column of the table of differences."""
    _, _, section = TABLE.read_text().partition("\n## Differences\n")
    rows = re.findall(r"^\| (`[^|]+`) \|", section, flags=re.MULTILINE)
    return [pattern for row in rows for pattern in re.findall(r"`([^`]+)`", row)]


def covers(pattern: str, path: str) -> bool:
    return fnmatch.fnmatchcase(path, pattern)


def _leaves(facts: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(facts, dict) or (prefix and not facts):
        return {prefix: facts}
    found: dict[str, Any] = {}
    for key, value in facts.items():
        found |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _equal(path: str, a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_equal(path, x, y) for x, y in zip(a, b, strict=True))
    if _number(a) and _number(b):
        absolute, relative = next(t for p, t in TOLERANCES.items() if path.startswith(p))
        return abs(a - b) <= max(absolute, relative * abs(a))
    return type(a) is type(b) and a == b


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
