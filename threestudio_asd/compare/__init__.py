"""``threestudio-asd compare``: methods side by side in the world whose truth is known.

``grid`` says what is compared, ``train`` makes one cell's result, ``measure`` and ``metrics``
judge it, ``runner`` goes through the grid and goes on from what is there, ``summary`` and ``page``
tell the result.
"""
