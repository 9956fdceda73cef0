"""Guidance modules for threestudio's registry; importing this package registers them."""

from omegaconf import OmegaConf

from threestudio_asd.tiny import model_folder

from . import asd

__all__ = ["asd"]

if not OmegaConf.has_resolver("asd_model"):
    OmegaConf.register_new_resolver("asd_model", model_folder)
