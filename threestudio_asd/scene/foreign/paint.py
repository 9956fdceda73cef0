"""What colours a part of a foreign mesh: a base colour, times colours of vertices, times a texture.

Results are display (sRGB) colours. glTF multiplies linear ones, of which its texture alone is
stored as display colours; OBJ and PLY know display colours only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from threestudio_asd.scene.formats import linear_to_srgb, srgb_to_linear

#: Of what has no colour.
GREY = 0.5


@dataclass(frozen=True, eq=False)
class Paint:
    """The colours of one part; all in [0, 1].

    Args:
        base: (3,), linear if ``linear``.
        linear: Whether ``base`` and ``vertices`` are, and are multiplied so.
        vertices: (V, 3), or None.
        faces: (F, 3), or None: one colour for each face, in place of those of vertices.
        uv: (V, 2) from the upper left, or None.
        image: (H, W, 3), display colours, or None.
    """

    base: np.ndarray
    linear: bool = False
    vertices: np.ndarray | None = None
    faces: np.ndarray | None = None
    uv: np.ndarray | None = None
    image: np.ndarray | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is one colour all over."""
        return self.vertices is None and self.faces is None and self.image is None

    def at(self, face: np.ndarray, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(N, 3) display colours of points.

        Args:
            face: (N,) which face of the part each is on.
            corners: (N, 3) that face's rows of ``vertices`` and ``uv``.
            weights: (N, 3) barycentric coordinates.
        """
        color = np.broadcast_to(self.base, (len(face), 3))
        if self.vertices is not None:
            color = color * (self.vertices[corners] * weights[..., None]).sum(1)
        if self.faces is not None:
            color = color * self.faces[face]
        if self.image is None:
            return linear_to_srgb(color) if self.linear else color
        texels = _texture(self.image, (self.uv[corners] * weights[..., None]).sum(1))
        if (color == 1).all():
            return texels
        return linear_to_srgb(color * srgb_to_linear(texels)) if self.linear else color * texels


def _texture(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Between the centres of four texels; outside, the image is repeated."""
    height, width = image.shape[:2]
    at = uv * [width, height] - 0.5
    low = np.floor(at)
    share, (x, y) = at - low, low.astype(int).T
    rows, columns = ((y, y + 1), (x, x + 1))
    total = np.zeros((len(uv), 3))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            weight = abs(1 - j - share[:, 0]) * abs(1 - i - share[:, 1])
            total += weight[:, None] * image[row % height, column % width]
    return total


def paint_of(mesh: Any, linear: bool) -> Paint:
    """The paint of a ``trimesh.Trimesh``; grey where it has no colours.

    Args:
        linear: The file's factors and colours of vertices are (glTF).
    """
    visual = mesh.visual
    if visual.kind == "face":
        return Paint(np.ones(3), linear, faces=_unit(visual.face_colors))
    if visual.kind == "vertex":
        return Paint(np.ones(3), linear, vertices=_unit(visual.vertex_colors))
    if visual.kind != "texture":
        return Paint(np.full(3, GREY))
    material, uv = visual.material, visual.uv
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if image is not None and uv is not None and len(uv) == len(mesh.vertices):
        image, uv = np.asarray(image.convert("RGB")) / 255.0, from_top(uv)
    else:
        image = uv = None
    vertices = getattr(visual, "vertex_attributes", {}).get("color")
    vertices = None if vertices is None else _unit(vertices)
    factor = getattr(material, "baseColorFactor", None)
    if image is None and vertices is None and not hasattr(material, "baseColorFactor"):
        factor = material.diffuse
    base = np.ones(3) if factor is None else _unit(np.asarray(factor)[None])[0]
    return Paint(base, linear, vertices=vertices, uv=uv, image=image)


def from_top(uv: np.ndarray) -> np.ndarray:
    """Trimesh counts from the lower left."""
    return np.asarray(uv, dtype=float)[:, :2] * [1, -1] + [0, 1]


def _unit(colors: np.ndarray) -> np.ndarray:
    """(N, 3) in [0, 1], of bytes or other whole numbers, or of floats."""
    colors = np.asarray(colors)[:, :3]
    top = np.iinfo(colors.dtype).max if colors.dtype.kind in "ui" else 1.0
    return (colors / top).clip(0, 1)
