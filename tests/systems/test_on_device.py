"""The whole program on a device that refuses to mix with the CPU (``pretended_device``)."""

import pytest
from pretended_device import pretended, tally

SMALL = (
    *("data.width=16", "data.height=16", "data.eval_width=8", "data.eval_height=8"),
    *("data.batch_size=1", "data.n_val_views=1", "data.n_test_views=1"),
    "trainer.val_check_interval=1000",
)
COARSE = (*SMALL, "system.renderer.num_samples_per_ray=16")


def test_nerf(launch, logged):
    with pretended(), tally() as counts:
        assert launch(*COARSE, config="tiny/asd-nerf.yaml") == 0
    print(logged())
    print(counts, counts.uploads, counts.kinds, sum(counts.operations.values()))
