"""Materials of the bundled host; importing the package registers them."""

from threestudio_asd.studio.models.material import diffuse_with_point_light, no_material

__all__ = ["diffuse_with_point_light", "no_material"]
