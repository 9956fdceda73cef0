"""Captions of a generator's training, and where what they take minutes for is kept."""
