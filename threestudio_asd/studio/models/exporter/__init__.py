"""Exporters of the bundled host; importing the package registers them."""

from threestudio_asd.studio.models.exporter import mesh_exporter

__all__ = ["mesh_exporter"]
