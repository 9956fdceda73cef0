"""Wavefront OBJ and MTL text; names of materials and files are written as :func:`word` has them."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

# The OBJ and PLY formats prescribe neither.
SCENE_AXES = "z up, front +x, right-handed; 1 unit is 1 metre; sRGB colours"


def obj_text(
    v_pos: np.ndarray,
    t_pos_idx: np.ndarray,
    v_nrm: np.ndarray | None = None,
    v_tex: np.ndarray | None = None,
    t_tex_idx: np.ndarray | None = None,
    v_rgb: np.ndarray | None = None,
    matname: str | None = None,
    mtllib: str | None = None,
) -> str:
    """An OBJ file of triangles.

    Args:
        v_pos: (Nv, 3) positions; t_pos_idx: (Nf, 3) vertex indices from 0.
        v_nrm: (Nv, 3) normals; v_rgb: (Nv, 3) colours in [0, 1].
        v_tex: (Nt, 2) texture coordinates from the upper left; t_tex_idx: (Nf, 3) indices.
    """
    lines = [f"# {SCENE_AXES}"]
    if matname is not None:
        lines += [f"mtllib {word(mtllib)}", "g object", f"usemtl {word(matname)}"]
    vertices = v_pos if v_rgb is None else np.concatenate([v_pos, v_rgb], axis=1)
    lines += _rows("v", vertices)
    if v_tex is not None:
        lines += _rows("vt", np.stack([v_tex[:, 0], 1 - v_tex[:, 1]], axis=1))
    if v_nrm is not None:
        lines += _rows("vn", v_nrm)
    corners = _corners(t_pos_idx, t_tex_idx if v_tex is not None else None, v_nrm is not None)
    lines += [f"f {a} {b} {c}" for a, b, c in corners]
    return "\n".join(lines) + "\n"


def mtl_text(
    matname: str,
    maps: Mapping[str, str],
    Ka: Iterable[float] = (0.0, 0.0, 0.0),
    Kd: Iterable[float] = (1.0, 1.0, 1.0),
    Ks: Iterable[float] = (0.0, 0.0, 0.0),
) -> str:
    """A material; ``maps`` maps MTL statements (``map_Kd``, ...) to file names."""
    lines = [f"# {SCENE_AXES}", f"newmtl {word(matname)}"]
    for name, color in (("Ka", Ka), ("Kd", Kd), ("Ks", Ks)):
        if f"map_{name}" not in maps:
            lines.append(f"{name} " + " ".join(str(channel) for channel in color))
    lines += [f"{statement} {word(filename)}" for statement, filename in maps.items()]
    return "\n".join(lines) + "\n"


def word(name: str) -> str:
    """``name`` as OBJ and MTL can refer to it: spaces part words there, # begins a comment."""
    return re.sub(r"[\s#]+", "_", name)


def _rows(keyword: str, values: np.ndarray) -> list[str]:
    return [f"{keyword} " + " ".join(f"{x:.6g}" for x in row) for row in values.tolist()]


def _corners(
    positions: np.ndarray, textures: np.ndarray | None, normals: bool
) -> list[tuple[str, ...]]:
    """position/texture/normal of each corner, counted from 1."""
    rows = []
    for i, positions_of_face in enumerate((positions + 1).tolist()):
        texture = ["", "", ""] if textures is None else (textures[i] + 1).tolist()
        corners = zip(positions_of_face, texture, strict=True)
        rows.append(tuple(f"{p}/{t}/{p if normals else ''}".rstrip("/") for p, t in corners))
    return rows
