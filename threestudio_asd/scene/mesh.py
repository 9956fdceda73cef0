"""A triangle mesh as tensors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from threestudio_asd import log
from threestudio_asd.kernels.antialias import edge_links
from threestudio_asd.kernels.rasterize import Triangles
from threestudio_asd.scene.uv import unwrap


class Mesh:
    """Vertices ``v_pos`` (scene units) and triangles ``t_pos_idx``, counter-clockwise seen from
    outside; ``extras`` carries whatever else the maker wants to pass on."""

    def __init__(
        self, v_pos: Float[Tensor, "Nv 3"], t_pos_idx: Int[Tensor, "Nf 3"], **extras: Any
    ) -> None:
        self.v_pos, self.t_pos_idx = v_pos, t_pos_idx
        self.extras = extras
        self._v_nrm: Tensor | None = None
        self._v_rgb: Tensor | None = None
        self._edges: tuple[Tensor, Tensor] | None = None
        self._triangles: Triangles | None = None
        self._links: Tensor | None = None
        self._uv: tuple[Tensor, Tensor] | None = None

    def add_extra(self, key: str, value: Any) -> None:
        self.extras[key] = value

    @property
    def requires_grad(self) -> bool:
        return self.v_pos.requires_grad

    @property
    def v_rgb(self) -> Float[Tensor, "Nv 3"] | None:
        """Vertex colours in [0, 1], or None."""
        return self._v_rgb

    def set_vertex_color(self, v_rgb: Float[Tensor, "Nv 3"]) -> None:
        if len(v_rgb) != len(self.v_pos):
            raise ValueError(f"{len(v_rgb)} colours for {len(self.v_pos)} vertices")
        self._v_rgb = v_rgb

    @property
    def v_nrm(self) -> Float[Tensor, "Nv 3"]:
        """Unit vertex normals, area-weighted; +z where a vertex belongs to no area."""
        if self._v_nrm is None:
            self._v_nrm = self._vertex_normals()
        return self._v_nrm

    def set_normals(self, v_nrm: Float[Tensor, "Nv 3"]) -> None:
        """Unit normals other than those of the triangles."""
        self._v_nrm = v_nrm

    def _vertex_normals(self) -> Float[Tensor, "Nv 3"]:
        a, b, c = self.v_pos[self.t_pos_idx].unbind(1)
        face_normals = torch.linalg.cross(b - a, c - a, dim=-1)
        total = torch.zeros_like(self.v_pos).index_add(
            0, self.t_pos_idx.reshape(-1), face_normals.repeat_interleave(3, dim=0)
        )
        flat = (total * total).sum(-1, keepdim=True) <= 1e-20
        up = torch.eye(3, dtype=total.dtype, device=total.device)[2]
        return F.normalize(torch.where(flat, up, total), dim=-1)

    @property
    def edges(self) -> Int[Tensor, "Ne 2"]:
        """Each edge once, its lower vertex first."""
        return self._counted_edges()[0]

    @property
    def edge_counts(self) -> Int[Tensor, "Ne"]:
        """How many triangles share each of ``edges``; 1 at the rim of a hole."""
        return self._counted_edges()[1]

    def _counted_edges(self) -> tuple[Tensor, Tensor]:
        if self._edges is None:
            pairs = self.t_pos_idx[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(dim=-1).values
            n = len(self.v_pos)
            key, count = torch.unique(pairs[:, 0] * n + pairs[:, 1], return_counts=True)
            self._edges = torch.stack([key // n, key % n], dim=-1), count
        return self._edges

    @property
    def triangles(self) -> Triangles:
        """``t_pos_idx`` as the rasteriser takes them, checked at the first use.

        Raises:
            UserError: if they name vertices that are not there.
        """
        if self._triangles is None:
            corners, count = self.t_pos_idx.int(), len(self.v_pos)
            self._triangles = Triangles.checked(corners, count, self.v_pos.device)
        return self._triangles

    @property
    def edge_links(self) -> Int[Tensor, "links"]:
        """The triangles' neighbours, for antialiasing: :func:`.antialias.edge_links`."""
        if self._links is None:
            self._links = edge_links(self.triangles.corners)
        return self._links

    def normal_consistency(self) -> Float[Tensor, ""]:
        """Mean over edges of 1 - cos of the angle between the normals at the edge's ends."""
        ends = self.v_nrm[self.edges]
        return (1 - F.cosine_similarity(ends[:, 0], ends[:, 1], dim=-1)).mean()

    def laplacian(self) -> Float[Tensor, ""]:
        """Mean over vertices of |sum over neighbours of (vertex - neighbour)|, the uniform
        Laplacian; in scene units, not divided by the number of neighbours."""
        first, second = self.edges.unbind(-1)
        step = self.v_pos[first] - self.v_pos[second]
        total = torch.zeros_like(self.v_pos).index_add(0, first, step).index_add(0, second, -step)
        return total.norm(dim=-1).mean()

    @property
    def v_tex(self) -> Float[Tensor, "Nt 2"]:
        """Texture coordinates in [0, 1], from the upper left; made at the first use."""
        return self._unwrapped()[0]

    @property
    def t_tex_idx(self) -> Int[Tensor, "Nf 3"]:
        """Texture coordinates of each triangle's corners, as rows of ``v_tex``."""
        return self._unwrapped()[1]

    @property
    def has_uv(self) -> bool:
        """Whether there are texture coordinates already."""
        return self._uv is not None

    def set_uv(self, v_tex: Float[Tensor, "Nt 2"], t_tex_idx: Int[Tensor, "Nf 3"]) -> None:
        """Texture coordinates that are there already."""
        self._uv = v_tex, t_tex_idx

    def unwrap_uv(
        self,
        xatlas_chart_options: Mapping[str, Any] | None = None,
        xatlas_pack_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Cut the surface into charts and lay these out; see :func:`mesh_uv.unwrap`."""
        self._uv = unwrap(
            self.v_pos, self.t_pos_idx, xatlas_chart_options or {}, xatlas_pack_options or {}
        )

    def _unwrapped(self) -> tuple[Tensor, Tensor]:
        if self._uv is None:
            self.unwrap_uv()
        return self._uv

    def remove_outlier(self, outlier_n_faces_threshold: int | float) -> "Mesh":
        """This mesh without its small connected components.

        An int is the least number of faces a component keeps its place with; a float is a
        fraction of the largest component's. A mesh that requires gradients stays as it is.
        """
        if self.requires_grad:
            log.debug("Mesh is differentiable: outliers stay.")
            return self
        faces = self.t_pos_idx.cpu().numpy()
        n_vertices = len(self.v_pos)
        start, end = faces[:, [0, 1]].reshape(-1), faces[:, [1, 2]].reshape(-1)
        links = coo_array((np.ones(len(start)), (start, end)), shape=(n_vertices, n_vertices))
        _, component = connected_components(links, directed=False)
        n_faces = np.bincount(component[faces[:, 0]], minlength=component.max() + 1)
        least = outlier_n_faces_threshold
        if isinstance(least, float):
            least = int(least * n_faces.max())
        large = n_faces >= max(least, 1)
        log.debug("Mesh keeps %d of %d components.", large.sum(), (n_faces > 0).sum())
        return self._keep_vertices(torch.from_numpy(large[component]).to(self.v_pos.device))

    def _keep_vertices(self, keep: Tensor) -> "Mesh":
        new_index = keep.cumsum(0) - 1
        faces = self.t_pos_idx[keep[self.t_pos_idx[:, 0]]]
        mesh = Mesh(self.v_pos[keep], new_index[faces].to(faces.dtype), **self.extras)
        if self._v_rgb is not None:
            mesh.set_vertex_color(self._v_rgb[keep])
        return mesh
