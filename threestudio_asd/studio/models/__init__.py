"""Models of the bundled host; importing the package registers them under threestudio's names."""

from threestudio_asd.studio.models import (
    background,
    exporter,
    geometry,
    material,
    prompt_processor,
    renderer,
)

__all__ = ["background", "exporter", "geometry", "material", "prompt_processor", "renderer"]
