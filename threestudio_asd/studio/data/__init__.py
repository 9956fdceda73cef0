"""Data modules of the bundled host; importing the package registers them."""

from threestudio_asd.studio.data import random_camera

__all__ = ["random_camera"]
