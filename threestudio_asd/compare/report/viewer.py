"""Meshes to be turned by hand: a WebGL viewer that is part of the page."""

import base64
from collections.abc import Sequence
from html import escape

from threestudio_asd.compare.report.assets import asset


def viewer(meshes: Sequence[tuple[str, bytes]]) -> str:
    """HTML that shows one of ``meshes`` (title, binary PLY with colours) at a time."""
    options = "".join(
        f'<option value="{i}">{escape(title)}</option>' for i, (title, _) in enumerate(meshes)
    )
    data = "".join(
        f'<script type="text/plain" id="mesh-{i}">{base64.b64encode(ply).decode()}</script>'
        for i, (_, ply) in enumerate(meshes)
    )
    shaders = "".join(
        f'<script type="x-shader" id="{name}-shader">{source}</script>'
        for name, source in ((n, asset(f"{n}.glsl")) for n in ("vertex", "fragment"))
    )
    return (
        f'<p><label>mesh <select id="mesh">{options}</select></label></p>'
        f'<canvas id="viewer"></canvas>{data}{shaders}<script>{asset("viewer.js")}</script>'
    )
