"""``mesh-exporter``: the isosurface as GLB, PLY or OBJ, with vertex colours or with a texture.

| fmt               | colours                                                           |
|-------------------|-------------------------------------------------------------------|
| ``glb`` (default) | per vertex; with ``save_uv: true`` an embedded texture            |
| ``obj-mtl``       | a texture beside it, named in the MTL file (threestudio's default) |
| ``obj``           | per vertex, and with ``save_uv: true`` texture coordinates        |
| ``ply``           | per vertex                                                        |

A still and a turntable of the mesh as it was exported lie beside it.
"""

from dataclasses import dataclass, field
from typing import Any

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.studio.models.exporter.baking import bake, color_vertices
from threestudio_asd.studio.models.exporter.base import Exporter, ExporterOutput
from threestudio_asd.studio.models.exporter.check import check_mesh
from threestudio_asd.studio.models.exporter.preview import turntable
from threestudio_asd.studio.registry import register

FORMATS = ("glb", "obj-mtl", "obj", "ply")
# The material's attributes by the MTL statement that carries them.
MAPS = {"albedo": "map_Kd", "bump": "map_Bump", "metallic": "map_Pm", "roughness": "map_Pr"}


@register("mesh-exporter")
class MeshExporter(Exporter):
    @dataclass
    class Config(Exporter.Config):
        fmt: str = "glb"
        save_name: str = "model"
        # null: in a GLB, which viewers would shade flat without.
        save_normal: bool | None = None
        # null: in obj-mtl.
        save_uv: bool | None = None
        # Whether to store colours at all.
        save_texture: bool = True
        texture_size: int = 1024
        # Of obj-mtl (jpg or png); a GLB embeds PNG.
        texture_format: str = "jpg"
        # A still (PNG) and a turntable (MP4) of the exported mesh.
        save_preview: bool = True
        xatlas_chart_options: dict = field(default_factory=dict)
        xatlas_pack_options: dict = field(default_factory=dict)
        # Has no effect: texels are found without a rasteriser.
        context_type: str = "gl"

    cfg: Config

    def configure(self, *args: Any, **kwargs: Any) -> None:
        super().configure(*args, **kwargs)
        fmt = self.cfg.fmt
        if fmt not in FORMATS:
            raise UserError(f"system.exporter.fmt is '{fmt}'; use {'|'.join(FORMATS)}.")
        self.uv = fmt == "obj-mtl" if self.cfg.save_uv is None else self.cfg.save_uv
        self.normal = fmt == "glb" if self.cfg.save_normal is None else self.cfg.save_normal
        self.textured = self.cfg.save_texture and (fmt == "obj-mtl" or (fmt == "glb" and self.uv))
        if self.textured and not self.uv:
            raise UserError(
                "system.exporter.save_uv=false leaves obj-mtl without coordinates for its "
                "texture; set save_texture=false, too, or use fmt=glb or fmt=obj."
            )
        if fmt == "glb" and self.uv and not self.cfg.save_texture:
            raise UserError(
                "system.exporter.save_uv=true is for the texture of a GLB: set it to false, or "
                "save_texture=true."
            )
        if fmt == "ply" and self.uv:
            raise UserError("A PLY file has vertex colours: set system.exporter.save_uv=false.")
        if self.cfg.texture_size < 1:
            raise UserError("system.exporter.texture_size must be positive.")
        if self.cfg.texture_format not in ("jpg", "png"):
            raise UserError(
                f"system.exporter.texture_format is '{self.cfg.texture_format}'; use jpg or png."
            )

    def __call__(self) -> list[ExporterOutput]:
        """One mesh, which may be several files, and its preview.

        Raises:
            UserError: there is no surface at the geometry's threshold, the mesh is not worth
                writing, or it needs texture coordinates and xatlas is not installed.
        """
        mesh = self.geometry.isosurface()
        check_mesh(mesh, self.geometry.bbox)
        if self.uv:
            self._unwrap(mesh)
        maps: dict[str, Any] = {}
        if self.textured:
            log.info("Sampling a texture of %d x %d", *[self.cfg.texture_size] * 2)
            maps = bake(mesh, self.geometry, self.material, self.cfg.texture_size)
            if "albedo" not in maps:
                log.warn("The material has no albedo: the texture stays white.")
        elif self.cfg.save_texture:
            color_vertices(mesh, self.geometry, self.material)
        made = self._obj(mesh, maps) if "obj" in self.cfg.fmt else self._mesh(mesh, maps)
        return [made, *self._preview(mesh, maps)]

    def _unwrap(self, mesh: Mesh) -> None:
        packing = {"resolution": self.cfg.texture_size, **self.cfg.xatlas_pack_options}
        mesh.unwrap_uv(self.cfg.xatlas_chart_options, packing)
        log.info("Texture coordinates: %d for %d vertices", len(mesh.v_tex), len(mesh.v_pos))

    def _mesh(self, mesh: Mesh, maps: dict[str, Any]) -> ExporterOutput:
        name = f"{self.cfg.save_name}.{self.cfg.fmt}"
        params = {"mesh": mesh, "save_normal": self.normal}
        if "albedo" in maps:
            params["texture"] = maps["albedo"]
        return ExporterOutput(save_name=name, save_type="mesh", params=params)

    def _preview(self, mesh: Mesh, maps: dict[str, Any]) -> list[ExporterOutput]:
        if not self.cfg.save_preview:
            return []
        frames, name = turntable(mesh, maps.get("albedo")), self.cfg.save_name
        return [
            ExporterOutput(f"{name}.png", "rgb_image", {"img": frames[0]}),
            ExporterOutput(f"{name}.mp4", "video", {"frames": frames}),
        ]

    def _obj(self, mesh: Mesh, maps: dict[str, Any]) -> ExporterOutput:
        params = {
            "mesh": mesh,
            "save_mat": self.cfg.fmt == "obj-mtl",
            "save_normal": self.normal,
            "save_uv": self.uv,
            "save_vertex_color": mesh.v_rgb is not None,
            "map_format": self.cfg.texture_format,
        }
        params |= {MAPS[name]: values for name, values in maps.items() if name in MAPS}
        name = f"{self.cfg.save_name}.obj"
        return ExporterOutput(save_name=name, save_type="obj", params=params)
