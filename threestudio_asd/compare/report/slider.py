"""A page that shows two pictures one over the other, and a slider between them."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from threestudio_asd.compare.report.assets import asset
from threestudio_asd.files import written_whole


def write_slider(
    path: Path, title: str, pictures: Sequence[tuple[str, bytes]], lines: Sequence[str]
) -> None:
    """One HTML file that needs nothing else.

    Args:
        pictures: The left and the right one: (what it is, PNG); of one size.
        lines: Said below, a paragraph each.
    """
    (left, before), (right, after) = pictures
    images = "".join(
        f'<img alt="{escape(name, quote=True)}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        for name, png in ((left, before), (right, after))
    )
    move = "this.parentNode.style.setProperty('--at', this.value + '%')"
    body = (
        f"<h1>{escape(title)}</h1><p>left: {escape(left)}; right: {escape(right)}</p>"
        f'<div class="slider">{images}<input type="range" min="0" max="100" step="0.1" value="50" '
        f'aria-label="how much of the left picture is seen" oninput="{move}"></div>'
    )
    body += "".join(f"<p>{escape(line)}</p>" for line in lines)
    style = asset("page.css") + asset("slider.css")
    with written_whole(path) as partial:
        partial.write_text(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{style}</style></head>"
            f"<body>\n{body}\n</body></html>\n",
            encoding="utf-8",
        )
