"""Rows that walk along the teacher's flow, up to x_t or away from it, before they compare."""

from threestudio_asd.distill.rows.paths import cds, dsd, ism, jsd, sdi

__all__ = ["cds", "dsd", "ism", "jsd", "sdi"]
