"""Generators beside their teacher: figures, and a page of them."""
