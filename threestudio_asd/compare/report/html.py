"""HTML that pages of figures are made of: a document that needs nothing else, tables, pictures."""

import base64
import platform
from collections.abc import Iterable, Sequence
from html import escape
from importlib import metadata

from threestudio_asd import __version__
from threestudio_asd.compare.report.assets import asset
from threestudio_asd.compare.report.tables import Table
from threestudio_asd.tiny.judge import load_report

_LIBRARIES = ("torch", "diffusers", "peft", "pytorch-lightning", "torchmetrics", "trimesh")
# Distinguishable for the colour-blind (Okabe and Ito); further methods repeat them, dashed.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a7fd0", "#7a7a7a")

MANY = 6  # methods whose bands would hide each other


def document(title: str, body: str, curves: int = 0, styles: Sequence[str] = ()) -> str:
    """A whole page.

    Args:
        curves: How many styles charts and keys on it use, ``m0``, ``m1``, ...
        styles: Further style sheets among the assets.
    """
    style = asset("page.css") + asset("viewer.css")
    colors = "".join(
        f".m{i}{{--c:{_COLORS[i % len(_COLORS)]}}}.m{i} polyline{{stroke:var(--c);"
        f"stroke-dasharray:{'none' if i < len(_COLORS) else '5 4'}}}"
        f".m{i} polygon,.m{i} circle{{fill:var(--c)}}"
        for i in range(curves)
    )
    if curves > MANY:
        colors += asset("bands.css")
    colors += "".join(map(asset, styles))
    for i in range(len(_COLORS), curves):
        stripes = "90deg,var(--c) 0 3px,transparent 3px 5px"
        colors += f".m{i}.key::before{{background:repeating-linear-gradient({stripes})}}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}{colors}</style></head>"
        f"<body>\n{body}\n</body></html>\n"
    )


def table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; the first of each row is its title."""
    top = "".join(f'<th scope="col">{h}</th>' for h in head)
    lines = [
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{c}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    ]
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>'
        + "".join(lines)
        + "</tbody></table></div>"
    )


def plain(text: Table) -> str:
    """A table of plain text."""
    return table(map(escape, text.head), [list(map(escape, row)) for row in text.rows])


def keys(titles: Iterable[str]) -> str:
    """The colours of the curves, in words."""
    spans = (f'<span class="key m{i}">{escape(title)}</span>' for i, title in enumerate(titles))
    return f"<p>{''.join(spans)}</p>"


def picture(content: bytes, kind: str, alt: str) -> str:
    """A picture as a part of the page; ``kind`` is its format, "png" or "webp"."""
    data = base64.b64encode(content).decode()
    shown = escape(alt, quote=True)
    return f'<img class="{kind}" alt="{shown}" src="data:image/{kind};base64,{data}">'


def how_it_was_made(commands: Sequence[str], machines: Iterable[str]) -> str:
    """The commands, and what they ran on."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    lines = (
        f"threestudio-asd {__version__}, Python {platform.python_version()}, {versions}; "
        f"{'; '.join(machines)}; judge {load_report()['sha256'][:12]}"
    )
    shown = escape("\n".join(commands))
    return f"<h2>How it was made</h2><pre>{shown}</pre><p>{escape(lines)}</p>"
