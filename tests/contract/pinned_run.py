"""``launch.py`` of a checkout with the random numbers that the bundled host would draw.

    python pinned_run.py CHECKOUT [--extension FOLDER] --config ... --train key=value ...

An extension is imported as launch.py imports those in ``custom/``.

threestudio draws everything from the global generators; the bundled host makes batch k a function
of seed and k. Here threestudio's generators are seeded so before each camera batch and each
training step, in which Python's random numbers are torch's, and its slip at step 0 (cameras that
start from the evaluation view) is mended, so that what remains of a difference between both hosts
is a difference of the programs.
"""

import importlib.util
import itertools
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch

from threestudio_asd.cli import upstream_run

SEED = 0
STEP_STREAM = 1  # as in threestudio_asd.studio.systems.seeding, which must not be imported here


def mixed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def drawn() -> float:
    return float(torch.rand(()))


def load(extension: Path) -> None:
    spec = importlib.util.spec_from_file_location(extension.name, extension / "__init__.py")
    module = sys.modules[extension.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def pin(checkout: Path) -> None:
    upstream_run.prepare(checkout)
    from threestudio.data.uncond import RandomCameraIterableDataset
    from threestudio.systems.base import BaseSystem

    cameras, steps = itertools.count(), itertools.count()
    collate, batch_start = RandomCameraIterableDataset.collate, BaseSystem.on_train_batch_start

    def pinned_collate(self, batch):
        self.elevation_range, self.azimuth_range = self.cfg.elevation_range, self.cfg.azimuth_range
        state, coin = torch.get_rng_state(), random.random
        torch.manual_seed(mixed(SEED, next(cameras)))
        random.random = drawn
        try:
            return collate(self, batch)
        finally:
            random.random = coin
            torch.set_rng_state(state)

    def pinned_start(self, batch, batch_idx, unused=0):
        random.random = drawn
        torch.manual_seed(mixed(SEED, next(steps), STEP_STREAM))
        batch_start(self, batch, batch_idx, unused)

    RandomCameraIterableDataset.collate = pinned_collate
    BaseSystem.on_train_batch_start = pinned_start


if __name__ == "__main__":
    os.chdir(sys.argv.pop(1))
    pin(Path.cwd())
    if sys.argv[1] == "--extension":
        load(Path(sys.argv.pop(2)))
        sys.argv.pop(1)
    upstream_run.prepare = lambda checkout: None
    sys.exit(upstream_run.main())
if __name__ == "__mp_main__":
    upstream_run.install(quiet=True)
