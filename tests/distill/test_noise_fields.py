"""Arithmetic of noise fields: an official code's numbers, and the laws that they keep."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from threestudio_asd.distill import FSD, FSD_2D, METHODS, DiscreteSchedule, FieldNoise, Views
from threestudio_asd.distill.noise_fields import (
    field_noise,
    refreshed,
    shows_object,
    world_map_size,
    world_map_windows,
)
from threestudio_asd.distill.noising import NOISINGS, Draws
from threestudio_asd.distill.settings import Settings
from threestudio_asd.errors import UserError

NUMBERS = Path(__file__).parents[1] / "references" / "family_noise_fields.safetensors"
SIZE = (16, 16)
with safe_open(NUMBERS, "pt") as file:
    CASES = json.loads(file.metadata()["cases"])


def recomputed(case, x):
    """The results of a case: the fields after their refreshes, and the noise of its views."""
    names = [name for name in ("background", "buffer") if f"{name}_0" in x]
    fields, draw = {name: x[f"{name}_0"] for name in names}, 0
    sqrt_beta = case["sqrt_beta"]
    for _, share, gamma in case["steps"]:
        assert share == sqrt_beta
        for name in names:
            fields[name] = refreshed(fields[name], x[f"refresh_draw_{draw}"], gamma)
            draw += 1
    fresh, background = x["base_draws"], fields["background"]
    everywhere = torch.ones(len(fresh), 1, *SIZE, dtype=torch.bool)
    if case["kind"] == "worldmap":
        elevation, azimuth = torch.tensor(case["views_elevation_azimuth"]).double().mT
        around = world_map_size(SIZE, case["noise_theta"])
        assert around == (case["buffer_height"], case["buffer_width"])
        seen = world_map_windows(fields["buffer"][0], elevation, azimuth, around, SIZE)
        found = FieldNoise(seen, shows_object(x["opacity"], SIZE))
        found = found.over(background) if case["noise_background_fix"] else found
    else:
        found = FieldNoise(background.expand_as(fresh), everywhere)
    held = found.held if sqrt_beta > 0 else ~everywhere
    results = {"noise": found.mixed(fresh, sqrt_beta), "mask": held.float().expand_as(fresh)}
    return results | {f"{name}_1": value for name, value in fields.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_official_numbers(name):
    x = {key.partition(".")[2]: v for key, v in load_file(NUMBERS).items() if key.startswith(name)}
    found = recomputed(CASES[name], x)
    assert len(found) == (4 if "buffer_0" in x else 3)
    for key, value in found.items():
        torch.testing.assert_close(value, x[key], rtol=0, atol=1e-6)


def test_the_cases_cover_both_kinds_and_no_field():
    assert {(case["kind"], case["sqrt_beta"]) for case in CASES.values()} == {
        ("fixed", 0.8),
        ("worldmap", 1.0),
        ("fixed", 0.0),
    }


@pytest.mark.parametrize("wrong", [refreshed, world_map_windows, shows_object])
def test_a_wrong_formula_disagrees_with_the_numbers(monkeypatch, wrong):
    right_windows, right_opacity = world_map_windows, shows_object
    slips = {
        refreshed: lambda n, xi, gamma: (1 - gamma) * n + gamma * xi,
        world_map_windows: lambda w, el, az, *sizes: right_windows(w, el, -az, *sizes),
        shows_object: lambda opacity, size: right_opacity(opacity.flip(1), size),
    }
    monkeypatch.setitem(globals(), wrong.__name__, slips[wrong])
    errors = []
    for name, case in CASES.items():
        stored = load_file(NUMBERS).items()
        x = {key.partition(".")[2]: v for key, v in stored if key.startswith(name)}
        errors += [(v - x[key]).abs().max().item() for key, v in recomputed(case, x).items()]
    assert max(errors) > 1e-2


def test_refreshed_noise_stays_standard_and_forgets_at_its_rate():
    """The correlation with the start after k refreshes is (1 - gamma)^(k/2)."""
    start = torch.randn(400_000)
    n = start
    for _ in range(10):
        n = refreshed(n, torch.randn_like(n), 0.1)
    assert n.var().item() == pytest.approx(1.0, abs=0.01)
    assert (n * start).mean().item() == pytest.approx(0.9**5, abs=0.01)
    assert refreshed(start, n, 0.0).equal(start) and refreshed(start, n, 1.0).equal(n)
    with pytest.raises(UserError, match=r"noise_refresh.*1\.5; choose a number from 0 to 1"):
        refreshed(start, n, 1.5)


def test_mixed_noise_is_standard_and_keeps_to_its_share():
    n, fresh = torch.randn(2, 1, 1, 500, 500)
    held = torch.rand(1, 1, 500, 500) < 0.5
    found = FieldNoise(n, held).mixed(fresh, 0.6)
    assert found.var().item() == pytest.approx(1.0, abs=0.01)
    assert (found * n)[held].mean().item() == pytest.approx(0.6, abs=0.01)
    assert found[~held].equal(fresh[~held])
    with pytest.raises(UserError, match=r"sqrt_beta.*is 1\.2"):
        FieldNoise(n, held).mixed(fresh, 1.2)


@pytest.fixture
def world():
    around = world_map_size((4, 6), 90.0)
    assert around == (8, 24)
    return torch.randn(2, *around)


def window(world, elevation, azimuth):
    angles = torch.tensor([elevation]), torch.tensor([azimuth])
    return world_map_windows(world, *angles, tuple(world.shape[1:]), (4, 6))[0]


def test_windows_shift_with_the_camera_and_the_map_has_no_edge(world):
    """15 degrees of azimuth are a column, 22.5 of elevation a row, also across 0 and 360."""
    for azimuth in (0.0, 90.0, 345.0, -15.0):
        here, there = window(world, 0.0, azimuth), window(world, 0.0, azimuth + 15.0)
        torch.testing.assert_close(here[:, :, 1:], there[:, :, :-1])
    for elevation in (-45.0, 0.0, 22.5):
        here, above = window(world, elevation, 0.0), window(world, elevation + 22.5, 0.0)
        torch.testing.assert_close(here[:, :-1], above[:, 1:])
    assert window(world, 10.0, 200.0).equal(window(world, 10.0, 560.0))
    assert window(world, 0.0, 0.0).equal(world[:, :4, :6])


def test_opacity_is_the_mean_of_what_a_pixel_covers():
    opacity = torch.tensor([[0.9, 0.2, 0.0, 1.0]]).repeat(2, 1)[None, :, :, None]
    assert shows_object(opacity, (1, 2)).tolist() == [[[[True, True]]]]
    assert shows_object(opacity, (2, 4)).tolist() == [[[[True, False, False, True]] * 2]]


class Question:
    """What a step hands to a noising."""

    schedule = DiscreteSchedule.scaled_linear()

    def __init__(self, field, sqrt_beta):
        self.field, self.settings = field, Settings({"sqrt_beta": sqrt_beta})
        self.draws = Draws()

    views_at_once, scale = 1, 1.0

    def __call__(self, name, x_t, t, items=None):
        raise AssertionError("these noisings ask the teacher nothing")

    together = __call__


@pytest.mark.parametrize("name", ["fixed-noise", "world-map", "surface-noise"])
def test_a_noising_takes_its_fields_noise(name):
    noising = NOISINGS.get(name)
    assert noising.field == name and noising.asks == noising.adds == ()
    x0, n = torch.randn(2, 3, 4, 5, 5)
    views, t = Views(*torch.rand(3, 3)), torch.tensor([100, 500, 900])
    held = (torch.arange(5) < 2).expand(3, 1, 5, 5)

    def field(x0, views):
        return FieldNoise(n, held)

    found = noising.make(x0, t, views, Question(field, 1.0))
    mask = held.expand_as(n)
    assert found.noise[mask].equal(n[mask])
    assert (found.noise[~mask] - n[~mask]).abs().min() > 0
    torch.testing.assert_close(found.x_t, Question.schedule.add_noise(x0, found.noise, t))
    torch.manual_seed(5)
    alone = noising.make(x0, t, views, Question(field, 0.0)).noise
    torch.manual_seed(5)
    assert alone.equal(torch.randn_like(x0))
    with pytest.raises(UserError, match=r"reads a noise field and its step has none.*field="):
        field_noise(x0, t, views, Question(None, 1.0))


def test_rows_of_flow_score_distillation():
    assert METHODS.get("fsd") is FSD and METHODS.get("fsd-2d") is FSD_2D
    assert NOISINGS.get(FSD.noising).field == "world-map"
    assert NOISINGS.get(FSD_2D.noising).field == "fixed-noise"
    for row in (FSD, FSD_2D):
        assert row.with_settings({}, "") == {"noise_refresh": 0.0, "sqrt_beta": 1.0}
        assert (row.target, row.source, row.critic) == ("guided", "noise", None)
