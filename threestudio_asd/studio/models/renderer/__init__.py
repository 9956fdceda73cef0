"""Renderers of the bundled host; importing the package registers them."""

from threestudio_asd.studio.models.renderer import nerf_volume_renderer, nvdiff_rasterizer

__all__ = ["nerf_volume_renderer", "nvdiff_rasterizer"]
