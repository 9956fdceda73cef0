"""The numbers of the official codes of JSD, SIM, CDS and DSD, recomputed with the rows."""

from pathlib import Path

import family
import pytest
from check import TOLERANCE

HERE = Path(__file__).parent
FILES = HERE / "rivals_official.safetensors", HERE / "asd_official_weights.safetensors"
CASES = family.cases_of(FILES[0])


@pytest.fixture(scope="module")
def errors():
    return family.check(*FILES)


@pytest.mark.parametrize("name", CASES)
def test_every_result_agrees_with_the_official_code(errors, name):
    assert errors[name] and max(errors[name].values()) < TOLERANCE, errors[name]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("jsd", {"guidance_scale": 14.5}),
        ("jsd", {"jsd_scale": 0.3}),
        ("jsd", {"uniform_draw": 0.6}),
        ("jsd_perp_neg", {"perp_neg": False}),
        ("sim", {"guidance_scale": 8.5}),
        ("cds", {"guidance_scale": 7.5}),
        ("cds_sds", {"weighting": "uniform"}),
        ("dsd", {"guidance_scale": 8.5}),
        ("dsd", {"uniform_draw": 0.1}),
        ("dsd_perp_neg", {"perp_neg": False}),
    ],
)
def test_every_setting_is_read(monkeypatch, name, change):
    monkeypatch.setattr(family, "cases_of", lambda numbers: {name: CASES[name] | change})
    assert max(family.check(*FILES)[name].values()) > 2e-3
