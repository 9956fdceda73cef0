"""Generators of one step: a teacher's network asked once, and the folders that hold it."""

from threestudio_asd.teachers.one_step.generator import INIT_TIMESTEP, OneStepGenerator
from threestudio_asd.teachers.one_step.note import NOTE, Note, read_note

__all__ = ["INIT_TIMESTEP", "NOTE", "Note", "OneStepGenerator", "read_note"]
