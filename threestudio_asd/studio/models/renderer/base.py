"""Base class of renderers."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from threestudio_asd.studio.base import BaseModule
from threestudio_asd.studio.models.geometry.base import BaseGeometry
from threestudio_asd.studio.models.material.base import BaseMaterial
from threestudio_asd.studio.models.ops import cube_bbox


class Renderer(BaseModule):
    """Draws a geometry with a material before a background.

    The three belong to the system; the renderer refers to them without owning their parameters.
    """

    @dataclass
    class Config(BaseModule.Config):
        radius: float = 1.0

    cfg: Config

    def configure(
        self, geometry: BaseGeometry, material: BaseMaterial, background: BaseModule
    ) -> None:
        # Inside a namespace, because a module attribute would register them as submodules.
        self.sub_modules = SimpleNamespace(
            geometry=geometry, material=material, background=background
        )
        self.register_buffer("bbox", cube_bbox(self.cfg.radius))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """threestudio's dictionary of images and samples."""
        raise NotImplementedError

    @property
    def geometry(self) -> BaseGeometry:
        return self.sub_modules.geometry

    @property
    def material(self) -> BaseMaterial:
        return self.sub_modules.material

    @property
    def background(self) -> BaseModule:
        return self.sub_modules.background

    def set_geometry(self, geometry: BaseGeometry) -> None:
        self.sub_modules.geometry = geometry

    def set_material(self, material: BaseMaterial) -> None:
        self.sub_modules.material = material

    def set_background(self, background: BaseModule) -> None:
        self.sub_modules.background = background


class VolumeRenderer(Renderer):
    pass


class Rasterizer(Renderer):
    pass
