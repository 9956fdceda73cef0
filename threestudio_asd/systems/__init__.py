"""Systems for threestudio's registry; importing this package registers them."""

from . import asd, asd_2d

__all__ = ["asd", "asd_2d"]
