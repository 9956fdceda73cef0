"""``mesh-exporter``: the isosurface with vertex colours as GLB, PLY or OBJ.

Differs from threestudio's: the default format is ``glb`` instead of ``obj-mtl``, and ``save_uv``
is off by default, because colours are stored per vertex and not in a texture.
"""

from dataclasses import dataclass, field

import torch

from threestudio_asd.errors import UserError
from threestudio_asd.studio import log
from threestudio_asd.studio.models.exporter.base import Exporter, ExporterOutput
from threestudio_asd.studio.models.exporter.formats import WRITERS
from threestudio_asd.studio.models.geometry.base import BaseGeometry
from threestudio_asd.studio.models.material.base import BaseMaterial
from threestudio_asd.studio.models.mesh import Mesh
from threestudio_asd.studio.models.ops import chunk_batch
from threestudio_asd.studio.registry import register

CHUNK = 2**17


@register("mesh-exporter")
class MeshExporter(Exporter):
    @dataclass
    class Config(Exporter.Config):
        fmt: str = "glb"
        save_name: str = "model"
        save_normal: bool = False
        save_uv: bool = False
        # Whether to store colours at all.
        save_texture: bool = True
        texture_size: int = 1024
        texture_format: str = "jpg"
        xatlas_chart_options: dict = field(default_factory=dict)
        xatlas_pack_options: dict = field(default_factory=dict)
        # Has no effect: vertex colours need no rasteriser.
        context_type: str = "gl"

    cfg: Config

    def configure(self, *args, **kwargs) -> None:
        super().configure(*args, **kwargs)
        formats = "|".join(WRITERS)
        if self.cfg.fmt == "obj-mtl" or self.cfg.save_uv:
            raise UserError(
                "Textures (system.exporter.fmt=obj-mtl, system.exporter.save_uv=true) are "
                "accepted by threestudio but not implemented on the bundled host; use "
                f"system.exporter.fmt={formats}, which stores vertex colours, and save_uv=false."
            )
        if self.cfg.fmt not in WRITERS:
            raise UserError(f"system.exporter.fmt is '{self.cfg.fmt}'; use {formats}.")
        for key in (
            "texture_size",
            "texture_format",
            "xatlas_chart_options",
            "xatlas_pack_options",
        ):
            if getattr(self.cfg, key) != getattr(self.Config(), key):
                raise UserError(
                    f"system.exporter.{key} is accepted by threestudio but not implemented on "
                    "the bundled host, which writes no textures; remove it."
                )

    def __call__(self) -> list[ExporterOutput]:
        """One mesh file.

        Raises:
            UserError: there is no surface at the geometry's threshold.
        """
        mesh = self.geometry.isosurface()
        if self.cfg.save_texture:
            color_vertices(mesh, self.geometry, self.material)
        name = f"{self.cfg.save_name}.{self.cfg.fmt}"
        params = {"mesh": mesh, "save_normal": self.cfg.save_normal}
        return [ExporterOutput(save_name=name, save_type="mesh", params=params)]


@torch.no_grad()
def color_vertices(mesh: Mesh, geometry: BaseGeometry, material: BaseMaterial) -> None:
    """Give every vertex the material's albedo there, if there is one."""

    def export(points: torch.Tensor) -> dict[str, torch.Tensor]:
        return material.export(points=points, **geometry.export(points=points))

    maps = chunk_batch(export, CHUNK, mesh.v_pos)
    if "albedo" in maps:
        mesh.set_vertex_color(maps["albedo"])
    else:
        log.warn("The material has no albedo: the mesh is exported without colours.")
