"""Exporters of the bundled host; importing the package registers them."""

from threestudio_asd.studio.models.exporter import given_mesh_exporter, mesh_exporter

__all__ = ["given_mesh_exporter", "mesh_exporter"]
