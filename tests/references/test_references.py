"""The official ASD code's numbers, recomputed with this package."""

from pathlib import Path

import check
import pytest

HERE = Path(__file__).parent
FILES = HERE / "asd_official.safetensors", HERE / "asd_official_weights.safetensors"


def test_every_result_agrees_with_the_official_code():
    errors = check.check(*FILES)
    assert len(errors) == 2
    for case in errors.values():
        assert max(case.values()) < check.TOLERANCE, case


def test_the_check_notices_a_wrong_formula(monkeypatch):
    def one_more(null, cond, scale):
        return null + (scale + 1.0) * (cond - null)

    monkeypatch.setattr("threestudio_asd.distill.guidance.classifier_free_guidance", one_more)
    assert check.main(*FILES) == 1


@pytest.mark.parametrize("gamma", [-0.74, 0.0])
def test_the_check_notices_a_wrong_gamma(monkeypatch, gamma):
    settings = check.CriticSettings(gamma=gamma, gamma_target="official")
    monkeypatch.setattr(check, "CriticSettings", lambda **kwargs: settings)
    assert check.main(*FILES) == 1
