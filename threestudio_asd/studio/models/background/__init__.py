"""Backgrounds of the bundled host; importing the package registers them."""

from threestudio_asd.studio.models.background import neural_environment_map, solid_color

__all__ = ["neural_environment_map", "solid_color"]
