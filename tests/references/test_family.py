"""The numbers of the family's official codes, recomputed with the rows of the method table."""

from pathlib import Path

import family
import pytest
from check import TOLERANCE

from threestudio_asd.distill.rows import paths

HERE = Path(__file__).parent
FILES = HERE / "family_official.safetensors", HERE / "asd_official_weights.safetensors"
CASES = family.cases_of(FILES[0])
ROWS = {name: case for name, case in CASES.items() if case["method"] in family.READ}


@pytest.fixture(scope="module")
def errors():
    return family.check(*FILES)


def test_all_cases_of_rows_are_read(errors):
    others = {case["method"] for name, case in CASES.items() if name not in ROWS}
    assert others == {"noise_field", "esd_gaussian"}
    assert set(errors) == set(ROWS) and len(ROWS) == 28


@pytest.mark.parametrize("name", ROWS)
def test_every_result_agrees_with_the_official_code(errors, name):
    assert errors[name] and max(errors[name].values()) < TOLERANCE, errors[name]


def _error(name, monkeypatch, change):
    """The largest error of a case whose setting is another."""
    monkeypatch.setattr(family, "cases_of", lambda numbers: {name: ROWS[name] | change})
    return max(family.check(*FILES)[name].values())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sdi_perp", {"perp_neg": False}),
        ("sdi_plain", {"perp_neg": True}),
        ("sdi_plain", {"inversion_guidance_scale": -6.5}),
        ("sdi_plain", {"uniform_draw": 0.25}),
        ("sdi_perp", {"inversion_eta": 0.0}),
        ("sdi_defined", {"perp_neg": True}),
        ("bridge2d", {"cfg_scale": 41.0}),
        ("nfsd_high", {"cfg_scale": 8.5}),
        ("bridge3d_stage_one", {"guidance_scale": 101.0}),
        ("csd_refine_2500", {"uncond_scale": -0.9}),
        ("csd_refine_2500", {"null_scale": -0.1}),
        ("csd_as_sds", {"noise_scale": -0.9}),
        ("csd_pixel_coarse", {"perpneg_scale": 1.0}),
        ("csd_pixel_coarse", {"grad_normalize": False}),
        ("ism", {"index_t": 429}),
        ("ism", {"segments": [{}, {"delta": 26}]}),
        ("ism_perp", {"segments": [{}, {"delta": 87}]}),
        ("ism", {"xs_delta_t": 100}),
        ("dds", {"guidance_scale": 8.5}),
        ("dds_edit", {"iterations": 3}),
        ("cfd_2d", {"perp_neg": True}),
        ("cfd_v", {"prediction_type": "epsilon"}),
        ("esd_v", {"lambda": 0.6}),
        ("esd_v", {"critic_prediction_type": "epsilon"}),
    ],
)
def test_every_setting_is_read(monkeypatch, name, change):
    assert _error(name, monkeypatch, change) > 2e-3


@pytest.mark.parametrize(
    ("path", "name"), [("sdi.inversion_times", "sdi_plain"), ("ism.interval_times", "ism")]
)
def test_the_check_notices_another_grid(monkeypatch, path, name):
    """One time later, but for the last."""
    module, function = path.split(".")
    times = getattr(getattr(paths, module), function)

    def later(*args):
        *grid, last = times(*args)
        return [*(time + 1 for time in grid), last]

    monkeypatch.setattr(getattr(paths, module), function, later)
    assert _error(name, monkeypatch, {}) > 2e-3


def test_the_command_says_whether_all_agree(monkeypatch, capsys):
    some = {name: CASES[name] for name in ("cfd_2d", "field_fixed")}
    monkeypatch.setattr(family, "cases_of", lambda numbers: some)
    assert family.main(*map(str, FILES)) == 0
    assert "no rows here: field_fixed" in capsys.readouterr().out
    some["cfd_2d"] = some["cfd_2d"] | {"guidance_scale": 8.0}
    assert family.main(*map(str, FILES)) == 1
