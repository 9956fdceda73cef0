"""Rows of the method table beyond SDS, SJC, VSD and ASD: one module for each paper.

Each says the formula, where it comes from, and what its code does differently from the paper or
from this package. ``e_n`` is the prediction "null", which is the negative prompt where one is
given; ``e_0`` is "empty", the prompt "".
"""

from threestudio_asd.distill.rows import asd_pair, bridge, cfd, csd, dds, esd, lmc, nfsd, paths, sim

__all__ = ["asd_pair", "bridge", "cfd", "csd", "dds", "esd", "lmc", "nfsd", "paths", "sim"]
