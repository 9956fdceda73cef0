"""Guidance modules for threestudio's registry; importing this package registers them, and the
teachers and critics that come with it."""

from threestudio_asd import host
from threestudio_asd.critics import lora
from threestudio_asd.guidance import asd, truth
from threestudio_asd.teachers import diffusers, mvdream
from threestudio_asd.tiny import model_folder

__all__ = ["asd", "diffusers", "lora", "mvdream", "truth"]

host.register_resolver("asd_model", model_folder)

if host.NAME == "bundled":  # threestudio and its extensions have their own of these names
    from threestudio_asd.guidance import builtin

    __all__ += ["builtin"]
