"""Generators of one step: trained from a teacher, saved as ordinary folders, measured beside it."""
