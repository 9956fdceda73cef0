"""Random numbers as a pure function of the seed and the training batch's number.

A run that is killed and resumed then draws what an uninterrupted run would have drawn, without
any generator state in the checkpoint.
"""

import random

import numpy as np
import torch

# Third word of the mixed seed: keeps these numbers apart from the data module's, which mixes
# (seed, batch) alone.
_STEP_STREAM = 1


def seed_step(seed: int, batch: int) -> None:
    """Seed torch, numpy and random for training batch ``batch`` of a run with ``seed`` >= 0."""
    mixed = np.random.SeedSequence((seed, batch, _STEP_STREAM)).generate_state(2)
    torch.manual_seed(int(mixed[0]))
    np.random.seed(int(mixed[1]))
    random.seed(int(mixed[1]))
