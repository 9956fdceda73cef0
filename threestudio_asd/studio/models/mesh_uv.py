"""Texture coordinates for a mesh, and texture maps filled from a field on its surface."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.errors import UserError

# Texels kept free around each chart, and pairs of texel and triangle looked at in one go.
PADDING = 2
PAIRS = 2**21


def unwrap(
    v_pos: Float[Tensor, "Nv 3"],
    t_pos_idx: Int[Tensor, "Nf 3"],
    chart_options: Mapping[str, Any],
    pack_options: Mapping[str, Any],
) -> tuple[Float[Tensor, "Nt 2"], Int[Tensor, "Nf 3"]]:
    """Charts by xatlas: coordinates in [0, 1] from the upper left, and each corner's row of them.

    Args:
        chart_options, pack_options: attributes of xatlas' ChartOptions and PackOptions.

    Raises:
        UserError: xatlas is not installed, or has no such option.
    """
    try:
        import xatlas
    except ImportError as error:
        raise UserError(
            "Textures need xatlas, which cannot be imported: pip install xatlas, or export vertex "
            "colours (system.exporter.fmt=glb with save_uv=false)."
        ) from error
    charts = _options(xatlas.ChartOptions(), "xatlas_chart_options", chart_options)
    given = {"padding": PADDING, "create_image": False, **pack_options}
    packing = _options(xatlas.PackOptions(), "xatlas_pack_options", given)
    atlas = xatlas.Atlas()
    atlas.add_mesh(v_pos.detach().cpu().float().numpy(), t_pos_idx.cpu().numpy().astype(np.uint32))
    atlas.generate(charts, packing)
    _, corners, coordinates = atlas.get_mesh(0)
    device = v_pos.device
    return (
        torch.from_numpy(np.ascontiguousarray(coordinates, dtype=np.float32)).to(device),
        torch.from_numpy(corners.astype(np.int64)).to(device),
    )


def _options(target: Any, key: str, values: Mapping[str, Any]) -> Any:
    for name, value in values.items():
        known = [n for n in dir(target) if not n.startswith("_")]
        if name not in known:
            raise UserError(f"system.exporter.{key}.{name}: xatlas has the options {known}.")
        try:
            setattr(target, name, value)
        except TypeError as error:
            raise UserError(f"system.exporter.{key}.{name}: xatlas cannot take {value}.") from error
    return target
