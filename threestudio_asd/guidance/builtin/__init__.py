"""threestudio's guidances and extensions' by their own names, each a setting of ours.

They differ from ``stable-diffusion-asd-guidance`` in keys, conventions and defaults, and name their
losses as threestudio does. They are registered on the bundled host alone: threestudio has its own.
"""

from threestudio_asd.guidance.builtin import mvdream, sdi, sds, sds_bridge, vsd

__all__ = ["mvdream", "sdi", "sds", "sds_bridge", "vsd"]
