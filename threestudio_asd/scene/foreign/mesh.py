"""A mesh from a file as it is there, and in the scene's ball."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.scene.foreign.paint import Paint
from threestudio_asd.scene.formats import Z_UP_TO_Y_UP
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.scene.uv import texel_positions

#: Rows are the scene's x, y, z: from a file's axes.
TO_SCENE = {"y": Z_UP_TO_Y_UP[:3, :3].T, "z": np.eye(3)}
#: Texels to a side at which it is seen whether texture coordinates cover a place twice.
_PROBE = 512


@dataclass(frozen=True, eq=False)
class ForeignMesh:
    """All parts of a file as one surface, at their places.

    Args:
        vertices: (V, 3) float64, in the file's axes and units.
        faces: (F, 3).
        normals: (V, 3), of length 1.
        up: The file's axis that points up, "y" (the front towards +z) or "z" (towards +x).
        part: (F,) which of ``paints`` colours each face.
        first: (P,) the first face of each part.
        offset: (P,) the first vertex of each part.
        paints: One for each part.
        uv: (V, 2) from the upper left, if the file's can carry a new texture.
        notes: What had to be done with the file, a sentence each.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    up: str
    part: np.ndarray
    first: np.ndarray
    offset: np.ndarray
    paints: Sequence[Paint]
    uv: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def noted(self, *notes: str) -> "ForeignMesh":
        """With more to tell."""
        return replace(self, notes=(*self.notes, *notes))

    def colors(self, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(N, 3) display colours in [0, 1] on the faces ``face`` (N,) at barycentric coordinates
        ``weights`` (N, 3)."""
        found = np.empty((len(face), 3))
        for p, paint in enumerate(self.paints):
            here = self.part[face] == p
            corners = self.faces[face[here]] - self.offset[p]
            found[here] = paint.at(face[here] - self.first[p], corners, weights[here])
        return found

    @property
    def centre(self) -> np.ndarray:
        """Of the box, (3,)."""
        return (self.vertices.min(0) + self.vertices.max(0)) / 2

    @property
    def reach(self) -> float:
        """The largest distance of a vertex from the centre."""
        return float(np.linalg.norm(self.vertices - self.centre, axis=1).max())

    def in_scene(self) -> Mesh:
        """In the scene's axes, z up and the front towards +x, where and as large as it is; in
        float64, and without rounding."""
        return self._mesh(torch.from_numpy(self.vertices @ TO_SCENE[self.up].T))

    def in_ball(self, radius: float, device: torch.device | str = "cpu") -> Mesh:
        """In the scene's axes, around the origin, its farthest vertex at ``radius``; float32."""
        placed = (self.vertices - self.centre) * (radius / self.reach) @ TO_SCENE[self.up].T
        return self._mesh(torch.from_numpy(placed).to(device, torch.float32))

    def _mesh(self, v_pos: Float[Tensor, "V 3"]) -> Mesh:
        faces = torch.from_numpy(self.faces).to(v_pos.device)
        mesh = Mesh(v_pos, faces)
        mesh.set_normals(torch.from_numpy(self.normals @ TO_SCENE[self.up].T).to(v_pos))
        if self.uv is not None:
            mesh.set_uv(torch.from_numpy(self.uv).to(v_pos), faces)
        return mesh

    def random_points(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """``n`` places on the surface, uniform in area: faces (n,), barycentric coordinates."""
        generator = np.random.default_rng(seed)
        face = generator.choice(len(self.faces), n, p=self._share)
        root, along = np.sqrt(generator.random(n)), generator.random(n)
        return face, np.stack([1 - root, root * (1 - along), root * along], axis=1)

    @cached_property
    def _share(self) -> np.ndarray:
        """(F,): of the area."""
        a, b, c = np.moveaxis(self.vertices[self.faces], 1, 0)
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
        return area / area.sum()


def unfit_uv(uv: np.ndarray, faces: np.ndarray) -> str | None:
    """Why texture coordinates (V, 2) cannot carry a new texture, as a clause; None if they can."""
    if not np.isfinite(uv).all() or uv.min() < -1e-4 or uv.max() > 1 + 1e-4:
        return "go beyond the picture (a repeated texture)"
    a, b, c = np.moveaxis(uv[faces], 1, 0)
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    areas = np.abs(ux * vy - uy * vx) / 2
    if areas.sum() < 1e-4:
        return "cover nothing"
    v_tex, corners = torch.from_numpy(uv), torch.from_numpy(faces)
    flat = torch.nn.functional.pad(v_tex, (0, 1))
    texel, _ = texel_positions(v_tex, corners, flat, corners, _PROBE)
    return "overlap" if areas.sum() > 1.05 * len(texel) / _PROBE**2 else None


def unit(normals: np.ndarray) -> np.ndarray:
    """(V, 3) of length 1; +z where there is no direction."""
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    sound = np.isfinite(length) & (length > 1e-9)
    return np.where(sound, normals / np.where(sound, length, 1.0), [0.0, 0.0, 1.0])
