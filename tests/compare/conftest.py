"""A grid of a few cells, small enough to run in a test."""

import pytest
from fakes import outcome

import threestudio_asd.guidance
import threestudio_asd.systems  # noqa: F401  (registers names and resolvers)
from threestudio_asd.compare import grid as grids
from threestudio_asd.compare.measure import generators
from threestudio_asd.compare.run import runner


@pytest.fixture
def few_truths(monkeypatch):
    """Reference sets of 12 renders instead of 500."""
    whole = generators.truth_images
    monkeypatch.setattr(generators, "truth_images", lambda *a: whole(*a, count=12))


@pytest.fixture
def small():
    """2D: SDS and ASD at two scales, one prompt, two steps; ``changes`` replace keys."""

    def make(**changes):
        flags = {"steps": 2, "scales": [1.0, 7.5], "prompts": ["a red mug"], "seeds": [0]}
        flags |= {"methods": ["SDS", "ASD -0.75"]} | changes
        return grids.load_grid("compare/2d", **flags)

    return make


@pytest.fixture
def trained(monkeypatch):
    """Training takes no time: grey pictures; the configs it was asked for."""
    asked = []

    def fake(cfg, folder, on_step=lambda step: None):
        asked.append(cfg)
        return outcome()

    monkeypatch.setattr(runner, "train", fake)
    return asked
