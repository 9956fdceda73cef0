"""``nvdiff-rasterizer``: a mesh drawn by rasterisation, with threestudio's name and outputs.

The kernels are this project's own (nvdiffrast's method), on the CPU and on CUDA.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.studio.models.background.base import BaseBackground
from threestudio_asd.studio.models.geometry.base import BaseGeometry
from threestudio_asd.studio.models.material.base import BaseMaterial
from threestudio_asd.studio.models.mesh_view import MeshView
from threestudio_asd.studio.models.renderer.base import Rasterizer
from threestudio_asd.studio.registry import register


@register("nvdiff-rasterizer")
class NVDiffRasterizer(Rasterizer):
    @dataclass
    class Config(Rasterizer.Config):
        # gl or cuda: threestudio's choice of nvdiffrast's context; has no effect here.
        context_type: str = "gl"

    cfg: Config

    def configure(
        self, geometry: BaseGeometry, material: BaseMaterial, background: BaseBackground
    ) -> None:
        super().configure(geometry, material, background)
        if self.cfg.context_type not in ("gl", "cuda"):
            raise UserError(f"renderer.context_type is '{self.cfg.context_type}'; use gl or cuda.")
        if material.requires_tangent:
            raise UserError(
                f"{type(material).__name__} needs tangents, which nvdiff-rasterizer does not give "
                "on the bundled host; use no-material or diffuse-with-point-light-material."
            )

    def forward(
        self,
        mvp_mtx: Float[Tensor, "B 4 4"],
        camera_positions: Float[Tensor, "B 3"],
        light_positions: Float[Tensor, "B 3"],
        height: int,
        width: int,
        render_rgb: bool = True,
        bg_color: Float[Tensor, "B Nc"] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The geometry's mesh from each camera, silhouettes antialiased.

        Args:
            mvp_mtx: from scene units to clip space.
            height, width: in pixels.
            render_rgb: whether to ask the material for colours.
            bg_color: replaces the background.

        Returns:
            ``mesh`` and images (B H W C): ``opacity``, ``comp_normal`` (world-space normals as
            (n + 1) / 2 on black), with ``render_rgb`` also ``comp_rgb`` and ``comp_rgb_bg``.
            Gradients reach the mesh's vertices through silhouettes, normals and positions.
        """
        mesh = self.geometry.isosurface()
        view = MeshView.of(mesh, mvp_mtx, height, width)
        normal = F.normalize(view.values(mesh.v_nrm), dim=-1)
        shown = torch.where(view.mask, (normal + 1) / 2, 0.0)
        out = {
            "mesh": mesh,
            "opacity": view.smoothed(view.mask.float()),
            "comp_normal": view.smoothed(shown),
        }
        if render_rgb:
            position = view.values(mesh.v_pos)
            # As in threestudio, where nothing is hit: from the camera to the origin.
            viewdirs = F.normalize(position - camera_positions[:, None, None, :], dim=-1)
            behind = self.background(dirs=viewdirs)
            if bg_color is not None:
                behind = bg_color[:, None, None, :].expand_as(behind)
            rgb = self._shade(view.mask[..., 0], position, viewdirs, normal, light_positions)
            front = torch.zeros_like(behind).masked_scatter(view.mask, rgb.to(behind))
            comp_rgb = view.smoothed(torch.where(view.mask, front, behind))
            out |= {"comp_rgb": comp_rgb, "comp_rgb_bg": behind}
        return out

    def _shade(
        self,
        mask: Tensor,
        position: Float[Tensor, "B H W 3"],
        viewdirs: Float[Tensor, "B H W 3"],
        normal: Float[Tensor, "B H W 3"],
        light_positions: Float[Tensor, "B 3"],
    ) -> Float[Tensor, "N Nc"]:
        """The colour of every pixel that shows the mesh."""
        points = position[mask]
        extra = {"shading_normal": normal[mask]} if self.material.requires_normal else {}
        return self.material(
            viewdirs=viewdirs[mask],
            positions=points,
            light_positions=light_positions[:, None, None, :].expand_as(position)[mask],
            **extra,
            **self.geometry(points, output_normal=False),
        )
