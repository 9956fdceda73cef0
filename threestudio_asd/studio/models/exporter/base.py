"""Base class of exporters."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from threestudio_asd.studio.base import BaseModule, BaseObject
from threestudio_asd.studio.models.geometry.base import BaseGeometry
from threestudio_asd.studio.models.material.base import BaseMaterial
from threestudio_asd.studio.registry import register


@dataclass
class ExporterOutput:
    """A file to write: the system calls its ``save_<save_type>(save_name, **params)``."""

    save_name: str
    save_type: str
    params: dict[str, Any]


class Exporter(BaseObject):
    """Turns the trained scene into files."""

    @dataclass
    class Config(BaseObject.Config):
        save_video: bool = False

    cfg: Config

    def configure(
        self, geometry: BaseGeometry, material: BaseMaterial, background: BaseModule
    ) -> None:
        # Inside a namespace: the exporter does not pass on training-step updates.
        self.sub_modules = SimpleNamespace(
            geometry=geometry, material=material, background=background
        )

    @property
    def geometry(self) -> BaseGeometry:
        return self.sub_modules.geometry

    @property
    def material(self) -> BaseMaterial:
        return self.sub_modules.material

    @property
    def background(self) -> BaseModule:
        return self.sub_modules.background

    def __call__(self, *args: Any, **kwargs: Any) -> list[ExporterOutput]:
        raise NotImplementedError


@register("dummy-exporter")
class DummyExporter(Exporter):
    """Exports nothing."""

    def __call__(self, *args: Any, **kwargs: Any) -> list[ExporterOutput]:
        return []
