"""Systems for threestudio's registry; importing this package registers them."""

from threestudio_asd import host
from threestudio_asd.systems import asd, asd_2d, random_grey

__all__ = ["asd", "asd_2d", "random_grey"]

if host.NAME == "bundled":  # threestudio has its own of these names
    from threestudio_asd.systems import builtin, sdi

    __all__ += ["builtin", "sdi"]
