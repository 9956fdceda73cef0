"""Texture coordinates for a mesh, and texture maps filled from a field on its surface."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd import homes, log
from threestudio_asd.errors import UserError
from threestudio_asd.scene import xatlas_charts
from threestudio_asd.scene.xatlas_charts import charts

# Texels kept free around each chart.
PADDING = 2
# Pairs of texel and triangle looked at in one go.
PAIRS = 2**21
# Triangles from which on xatlas takes long (some 3,000 a second), and seconds between two lines.
MANY = 10_000
INTERVAL = 10.0


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
        UserError: xatlas is not installed, has no such option, or fails.
    """
    try:
        import xatlas
    except ImportError as error:
        raise UserError(
            "Textures need xatlas, which cannot be imported: pip install xatlas, or export vertex "
            "colours (system.exporter.fmt=glb with save_uv=false)."
        ) from error
    pack_options = {"padding": PADDING, "create_image": False, **pack_options}
    _check_options(xatlas.ChartOptions(), "xatlas_chart_options", chart_options)
    _check_options(xatlas.PackOptions(), "xatlas_pack_options", pack_options)
    made = charts if len(t_pos_idx) < MANY else charts_apart
    coordinates, corners = made(
        v_pos.detach().cpu().float().numpy(),
        t_pos_idx.cpu().numpy().astype(np.uint32),
        chart_options,
        pack_options,
    )
    return torch.from_numpy(coordinates).to(v_pos), torch.from_numpy(corners).to(v_pos.device)


def _check_options(target: Any, key: str, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        known = [n for n in dir(target) if not n.startswith("_")]
        if name not in known:
            raise UserError(f"system.exporter.{key}.{name}: xatlas has the options {known}.")
        try:
            setattr(target, name, value)
        except TypeError as error:
            raise UserError(f"system.exporter.{key}.{name}: xatlas cannot take {value}.") from error


def charts_apart(
    v_pos: np.ndarray,
    faces: np.ndarray,
    chart_options: Mapping[str, Any],
    pack_options: Mapping[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`xatlas_charts.charts` in a process of its own.

    xatlas holds Python's lock as long as it works: in this process neither a line of progress nor
    Ctrl-C would get through.
    """
    log.info("Cutting %d triangles into charts", len(faces))
    options = json.dumps([dict(chart_options), dict(pack_options)])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with homes.scratch() as folder:
        given, found = folder / "in.npz", folder / "out.npz"
        np.savez(given, v_pos=v_pos, faces=faces, options=options)
        command = [sys.executable, xatlas_charts.__file__, str(given), str(found)]
        process = subprocess.Popen(command, env=environment)
        start = time.monotonic()
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(INTERVAL)
                    break
                log.info("cutting charts: %.0f s", time.monotonic() - start)
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            raise UserError(
                f"xatlas failed on the mesh (exit code {process.returncode}): export vertex "
                "colours (system.exporter.fmt=glb with save_uv=false), or a coarser mesh with "
                "a lower system.geometry.isosurface_resolution."
            )
        with np.load(found) as result:
            return result["coordinates"], result["corners"]


def texel_positions(
    v_tex: Float[Tensor, "Nt 2"],
    t_tex_idx: Int[Tensor, "Nf 3"],
    v_pos: Float[Tensor, "Nv 3"],
    t_pos_idx: Int[Tensor, "Nf 3"],
    size: int,
) -> tuple[Int[Tensor, "M"], Float[Tensor, "M 3"]]:
    """Where the texels of a ``size`` x ``size`` map lie on the surface.

    Returns:
        Flat indices (row * size + column, rows from the top) of the texels whose centre a chart
        covers, each once, and the points of the surface at these centres.
    """
    # Texel centres are whole numbers.
    corners = v_tex[t_tex_idx] * size - 0.5
    low = corners.amin(1).ceil().clamp(min=0).long()
    high = corners.amax(1).floor().clamp(max=size - 1).long()
    extent = (high - low + 1).clamp(min=0)
    count = extent.prod(-1)
    found, points = [], []
    for part in _portions(count):
        face = torch.repeat_interleave(part, count[part])
        first = count[part].cumsum(0) - count[part]
        nth = torch.arange(len(face), device=face.device) - first.repeat_interleave(count[part])
        column = low[face, 0] + nth % extent[face, 0]
        row = low[face, 1] + nth // extent[face, 0]
        weights = _barycentric(corners[face], torch.stack([column, row], dim=-1))
        inside = (weights >= -1e-5).all(-1)
        place = v_pos[t_pos_idx[face[inside]]]
        found.append((row * size + column)[inside])
        points.append((weights[inside, :, None] * place).sum(1))
    texel, inverse = torch.unique(torch.cat(found), return_inverse=True)
    position = v_pos.new_zeros(len(texel), 3)
    # Triangles that share an edge agree on the texels on it: any of them will do.
    position[inverse] = torch.cat(points)
    return texel, position


def _portions(count: Int[Tensor, "Nf"]) -> list[Int[Tensor, "K"]]:
    """Faces in portions of about PAIRS texels."""
    faces = torch.arange(len(count), device=count.device)
    portion = count.cumsum(0) // PAIRS
    return [faces[portion == p] for p in portion.unique()]


def _barycentric(corners: Float[Tensor, "M 3 2"], point: Int[Tensor, "M 2"]) -> Tensor:
    """(M 3); a triangle without area contains nothing."""
    a, b, c = (corners - point[:, None]).unbind(1)
    areas = torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], dim=-1)
    total = areas.sum(-1, keepdim=True)
    return torch.where(total == 0, -1.0, areas / torch.where(total == 0, 1.0, total))


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def fill_map(
    texel: Int[Tensor, "M"], values: Float[Tensor, "M C"], size: int
) -> Float[Tensor, "H W C"]:
    """A map with ``values`` at the flat indices ``texel``; every other texel takes the nearest
    one's, so that filtering across a seam or in a smaller copy of the map meets no foreign
    colour."""
    from scipy.ndimage import distance_transform_edt

    image = values.new_zeros(size * size, values.shape[-1])
    image[texel] = values
    empty = np.ones(size * size, dtype=bool)
    empty[texel.cpu().numpy()] = False
    nearest = distance_transform_edt(
        empty.reshape(size, size), return_distances=False, return_indices=True
    )
    row, column = (torch.from_numpy(index).long().to(values.device) for index in nearest)
    return image.view(size, size, -1)[row, column]
