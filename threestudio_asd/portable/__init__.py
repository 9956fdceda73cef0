"""Unmodified threestudio without its compiled extensions, on a CPU too.

:func:`~threestudio_asd.portable.install.install` stands in for the extensions that are missing or
unusable; :func:`~threestudio_asd.portable.adapt.adapt_to_cpu` turns an imported threestudio from
CUDA to the CPU. Nothing of a checkout is changed on disk.
"""

from threestudio_asd.portable.adapt import adapt_to_cpu
from threestudio_asd.portable.install import install, replaced, unusable

__all__ = ["adapt_to_cpu", "install", "replaced", "unusable"]
