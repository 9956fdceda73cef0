"""Data modules of the bundled host; importing the package registers them."""

from threestudio_asd.studio.data import multiview_camera, random_camera

__all__ = ["multiview_camera", "random_camera"]
