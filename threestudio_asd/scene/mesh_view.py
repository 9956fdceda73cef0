"""A mesh as cameras see it: the rasteriser's steps in one place."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threestudio_asd.kernels.antialias import antialias
from threestudio_asd.kernels.interpolate import interpolate
from threestudio_asd.kernels.rasterize import Triangles, rasterize
from threestudio_asd.scene.mesh import Mesh


@dataclass(frozen=True)
class MeshView:
    """A rasterised mesh; gradients reach its vertices."""

    clip: Float[Tensor, "B Nv 4"]
    tri: Triangles
    rast: Float[Tensor, "B H W 4"]
    links: Tensor

    @classmethod
    def of(cls, mesh: Mesh, mvp_mtx: Float[Tensor, "B 4 4"], height: int, width: int) -> "MeshView":
        """Drawn by matrices from scene units to clip space, ``height`` x ``width`` pixels."""
        return cls.drawn(mesh.v_pos, mesh.triangles, mesh.edge_links, mvp_mtx, (height, width))

    @classmethod
    def drawn(
        cls,
        v_pos: Float[Tensor, "Nv 3"],
        tri: Triangles,
        links: Tensor,
        mvp_mtx: Float[Tensor, "B 4 4"],
        size: tuple[int, int],
    ) -> "MeshView":
        """:meth:`of` a mesh's parts: vertices, ``triangles``, ``edge_links``."""
        clip = F.pad(v_pos, (0, 1), value=1.0) @ mvp_mtx.transpose(1, 2)
        rast, _ = rasterize(clip, tri, size)
        return cls(clip, tri, rast, links)

    @property
    def mask(self) -> Bool[Tensor, "B H W 1"]:
        """Where the mesh is seen."""
        return self.rast[..., 3:] > 0

    def values(
        self, attribute: Float[Tensor, "Na C"], index: Int[Tensor, "Nf 3"] | None = None
    ) -> Float[Tensor, "B H W C"]:
        """An attribute at the pixels; zero where nothing is seen.

        Args:
            index: rows of ``attribute`` at the triangles' corners; the vertices' own if None.
        """
        tri = self.tri if index is None else index.int()
        return interpolate(attribute[None], self.rast, tri)[0]

    def smoothed(self, image: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """``image`` with antialiased silhouettes."""
        return antialias(image, self.rast, self.clip, self.tri, self.links)
