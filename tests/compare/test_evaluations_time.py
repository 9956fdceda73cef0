"""benchmarks/evaluations_time.py: it asks again what was asked, and disturbs no training."""

import importlib
from pathlib import Path

import pytest
import torch

from threestudio_asd.compare.grid import load_grid

# Row -> UNet evaluations per item and step, those with gradient.
ASKED = {"SDS at 100": (2, 0), "VSD at 7.5": (3, 1), "SIM at 8.5": (4, 4)}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("evaluations_time")


def config(benchmark, method, steps):
    grid = load_grid("compare/family", steps=steps, methods=[method])
    return benchmark.first_config(grid, method)


@pytest.mark.slow
@pytest.mark.parametrize("method", ASKED)
def test_it_asks_again_what_a_step_asks(benchmark, method):
    found = benchmark.measured(config(benchmark, method, 3), warm_up=1)
    assert (found["evaluations"], found["with_gradient"]) == ASKED[method]
    assert found["steps"] == 2 and found["step_ms"] > 1 and found["ratio"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("method", ["VSD at 7.5", "SIM at 8.5"])
def test_a_training_is_what_it_is_without(benchmark, method):
    cfg = config(benchmark, method, 4)
    alone = benchmark.trained(cfg, [])
    stretch = benchmark.Stretch(warm_up=0)
    with stretch.watching():
        watched = benchmark.trained(cfg, [stretch])
    assert len(stretch.alone) == 4 and min(stretch.alone) > 0
    for one, other in zip(alone.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one, other)
