"""``given-mesh-exporter``: the mesh of ``given-mesh`` as it was in its file, with new colours.

A GLB of the same size, place and axes: the file's own vertices, not those of the scene's ball.
"""

from dataclasses import dataclass
from typing import Any

import torch

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.scene.foreign.mesh import TO_SCENE
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.studio.models.exporter.baking import bake
from threestudio_asd.studio.models.exporter.base import ExporterOutput
from threestudio_asd.studio.models.exporter.mesh_exporter import MeshExporter
from threestudio_asd.studio.models.geometry.given_mesh import GivenMesh
from threestudio_asd.studio.registry import register


@register("given-mesh-exporter")
class GivenMeshExporter(MeshExporter):
    @dataclass
    class Config(MeshExporter.Config):
        save_uv: bool | None = True
        save_name: str = "refined"

    cfg: Config

    def configure(self, *args: Any, **kwargs: Any) -> None:
        super().configure(*args, **kwargs)
        if self.cfg.fmt != "glb" or not self.textured:
            raise UserError(
                "given-mesh-exporter writes a GLB with a texture: leave system.exporter.fmt, "
                "save_uv and save_texture out."
            )
        if not isinstance(self.geometry, GivenMesh):
            raise UserError(
                "given-mesh-exporter writes the mesh of system.geometry_type=given-mesh alone; use "
                "mesh-exporter."
            )

    def __call__(self) -> list[ExporterOutput]:
        """The mesh and its preview.

        Raises:
            UserError: It needs texture coordinates and xatlas is not installed.
        """
        mesh = self.geometry.isosurface()
        if not mesh.has_uv:
            self._unwrap(mesh)
        log.info("Sampling a texture of %d x %d", *[self.cfg.texture_size] * 2)
        maps = bake(mesh, self.geometry, self.material, self.cfg.texture_size)
        return [self._mesh(self._in_place(mesh), maps), *self._preview(mesh, maps)]

    def _in_place(self, mesh: Mesh) -> Mesh:
        """What the writer of GLBs turns into the file's vertices, to the bit."""
        given = self.geometry.given
        turn = TO_SCENE["y"]  # the writer turns back, whatever the file's own axes are
        placed = Mesh(torch.from_numpy(given.vertices @ turn.T), mesh.t_pos_idx.cpu())
        placed.set_normals(torch.from_numpy(given.normals @ turn.T))
        placed.set_uv(mesh.v_tex.cpu(), mesh.t_tex_idx.cpu())
        return placed
