"""Charts by xatlas, called as a function, or run as a program of its own: IN.npz OUT.npz.

As a program it imports nothing of this package.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np


def charts(
    v_pos: np.ndarray,
    faces: np.ndarray,
    chart_options: Mapping[str, Any],
    pack_options: Mapping[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Texture coordinates (Nt, 2) in [0, 1] and the row of these at each corner (Nf, 3).

    Args:
        v_pos: (Nv, 3) float32; faces: (Nf, 3) uint32.
        chart_options, pack_options: attributes of xatlas' ChartOptions and PackOptions.
    """
    import xatlas

    targets = xatlas.ChartOptions(), xatlas.PackOptions()
    for target, options in zip(targets, (chart_options, pack_options), strict=True):
        for name, value in options.items():
            setattr(target, name, value)
    atlas = xatlas.Atlas()
    atlas.add_mesh(v_pos, faces)
    atlas.generate(*targets)
    _, corners, coordinates = atlas.get_mesh(0)
    return coordinates.astype(np.float32), corners.astype(np.int64)


if __name__ == "__main__":
    given = np.load(sys.argv[1])
    options = json.loads(str(given["options"]))
    found = charts(given["v_pos"], given["faces"], *options)
    np.savez(sys.argv[2], coordinates=found[0], corners=found[1])
