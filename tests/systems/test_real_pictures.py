"""Trainings whose discriminator sees real pictures: particles, a NeRF, a mesh."""

import pytest
from test_pieces import STEPS, SYSTEMS

REALS = (
    "system.guidance.real_weight=[0,0.0,0.2,1]",
    "system.guidance.reals={type: world, count: 4, containing: '{prompt}'}",
)
KINDS = ["asd-2d.yaml", "tiny/asd-nerf.yaml", "tiny/asd-geometry.yaml"]


@pytest.mark.parametrize(
    "config", [KINDS[0], *(pytest.param(k, marks=pytest.mark.long) for k in KINDS[1:])]
)
def test_the_critic_is_shown_them_when_the_schedule_begins(launch, logged, config):
    small = ("system.n_particles=2", "data.batch_size=2", "system.shape=null")
    options = SYSTEMS.get(config, small)
    steps = ("trainer.max_steps=2", "trainer.log_every_n_steps=1")
    assert launch(*STEPS, *options, *REALS, *steps, config=config) == 0
    found = logged()
    assert len(found["train/critic_denoise"]) == 2
    (real,), (near,) = (found[f"train/critic_real_{n}"] for n in ("denoise", "attract"))
    assert real < 0 < near
