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
from threestudio_asd.parallel import map_batch, trained
from threestudio_asd.scene.mesh_view import MeshView
from threestudio_asd.studio.base import BaseModule
from threestudio_asd.studio.models.geometry.base import BaseGeometry
from threestudio_asd.studio.models.material.base import BaseMaterial
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
        self, geometry: BaseGeometry, material: BaseMaterial, background: BaseModule
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
            ``mesh`` and images (B H W C): ``opacity``, ``depth`` (the distance from the camera
            times the opacity, as nerf-volume-renderer's; threestudio's rasteriser has none),
            ``comp_normal`` (world-space normals as (n + 1) / 2 on black), with ``render_rgb`` also
            ``comp_rgb`` and ``comp_rgb_bg``.
            Gradients reach the mesh's vertices through silhouettes, normals and positions.
        """
        mesh = self.geometry.isosurface()
        tri, links = mesh.triangles, mesh.edge_links

        def project(mvp_mtx: Tensor, v_pos: Tensor, v_nrm: Tensor) -> dict[str, Tensor]:
            view = MeshView.drawn(v_pos, tri, links, mvp_mtx, (height, width))
            found = {"clip": view.clip, "rast": view.rast}
            return {**found, "normal": view.values(v_nrm), "position": view.values(v_pos)}

        found = map_batch(project, mvp_mtx, common=(mesh.v_pos, mesh.v_nrm))
        # As in threestudio, where nothing is hit: from the camera to the origin.
        way = found["position"] - camera_positions[:, None, None, :]
        distance = way.norm(dim=-1, keepdim=True)

        def finish(
            clip: Tensor, rast: Tensor, normal: Tensor, distance: Tensor, *colored: Tensor
        ) -> dict:
            view = MeshView(clip, tri, rast, links)
            normal, seen = F.normalize(normal, dim=-1), view.mask.float()
            # Smoothed alike: depth / opacity is a distance at silhouettes, too.
            opacity, depth = view.smoothed(torch.cat([seen, seen * distance], -1)).split(1, -1)
            comp_normal = view.smoothed(torch.where(view.mask, (normal + 1) / 2, 0.0))
            out = {"opacity": opacity, "depth": depth, "comp_normal": comp_normal}
            return {**out, **self._colors(view, normal, *colored, extra)} if colored else out

        parts = [found["clip"], found["rast"], found["normal"], distance]
        if not render_rgb:
            return {"mesh": mesh, **map_batch(finish, *parts)}
        viewdirs = F.normalize(way, dim=-1)
        behind = self.background(dirs=viewdirs)
        if bg_color is not None:
            behind = bg_color[:, None, None, :].expand_as(behind)
        parts += [found["position"], viewdirs, behind, light_positions]
        extra = self.material.draw()
        out = map_batch(finish, *parts, parameters=trained(self.geometry, self.material))
        return {"mesh": mesh, **out, "comp_rgb_bg": behind}

    def _colors(
        self,
        view: MeshView,
        normal: Float[Tensor, "B H W 3"],
        position: Float[Tensor, "B H W 3"],
        viewdirs: Float[Tensor, "B H W 3"],
        behind: Float[Tensor, "B H W Nc"],
        light_positions: Float[Tensor, "B 3"],
        extra: dict[str, Any],
    ) -> dict[str, Float[Tensor, "B H W Nc"]]:
        """``comp_rgb``: the material where the mesh is seen, ``behind`` elsewhere."""
        pixels = view.mask.flatten().nonzero()[:, 0]

        def seen(image: Float[Tensor, "B H W C"]) -> Float[Tensor, "N C"]:
            return image.flatten(0, 2).index_select(0, pixels)

        points = seen(position)
        if self.material.requires_normal:
            extra = {**extra, "shading_normal": seen(normal)}
        rgb = self.material(
            viewdirs=seen(viewdirs),
            positions=points,
            light_positions=seen(light_positions[:, None, None, :].expand_as(position)),
            **extra,
            **self.geometry(points, output_normal=False),
        )
        front = torch.zeros_like(behind).flatten(0, 2).index_copy(0, pixels, rgb.to(behind))
        front = front.view_as(behind)
        return {"comp_rgb": view.smoothed(torch.where(view.mask, front, behind))}
