"""Noise fields: noise that the views of a scene share, and that a training keeps and renews.

``base`` says what a field is, ``pinned`` and ``surface`` hold the three there are, ``build`` makes
those that a config's methods name. How noise is read and renewed is
:mod:`threestudio_asd.distill.noise_fields`; which texels a pixel covers,
:mod:`threestudio_asd.kernels.surface_noise`.
"""

from threestudio_asd.fields.base import FIELDS, NoiseField, register_field
from threestudio_asd.fields.build import NoiseFields
from threestudio_asd.fields.pinned import FixedField, WorldMapField
from threestudio_asd.fields.surface import SurfaceField

__all__ = [
    "FIELDS",
    "FixedField",
    "NoiseField",
    "NoiseFields",
    "SurfaceField",
    "WorldMapField",
    "register_field",
]
