"""The official ASD code's numbers, recomputed with this package."""

from pathlib import Path

import check
import pytest

HERE = Path(__file__).parent
WEIGHTS = HERE / "asd_official_weights.safetensors"
FILES = HERE / "asd_official.safetensors", WEIGHTS
MORE = HERE / "asd_official_more.safetensors"
RESULTS = {"noise_pred", "critic_pred", "grad", "loss_critic"}
RESULTS |= {"critic_grad_norm", "camera_grad_norm"}


@pytest.mark.filterwarnings("ignore:gamma = -1")
@pytest.mark.parametrize(("numbers", "cases"), [(FILES[0], 2), (MORE, 5)])
def test_every_result_agrees_with_the_official_code(numbers, cases):
    errors = check.check(numbers, WEIGHTS)
    assert len(errors) == cases
    for case in errors.values():
        assert set(case) == RESULTS
        assert max(case.values()) < check.TOLERANCE, case


@pytest.mark.filterwarnings("ignore:gamma = -1")
@pytest.mark.parametrize(
    "setting",
    [
        {"gamma_target": "epsilon"},
        {"critic_prediction_type": "sample", "gamma": 0.0},
        {"teacher_prediction_type": "v_prediction"},
        {"teacher_prediction_type": "sample"},
        {"single_model": True},
        {"guidance_rescale": 0.1},
    ],
)
def test_every_setting_is_read(monkeypatch, setting):
    """Another value of a setting disagrees with the numbers of both v cases."""
    read = check._errors
    monkeypatch.setattr(check, "_errors", lambda case, *args: read(case | setting, *args))
    errors = check.check(MORE, WEIGHTS)
    assert max(errors["v_critic"].values()) > 0.01, errors["v_critic"]
    assert max(errors["v_critic_perp_neg"].values()) > 0.01, errors["v_critic_perp_neg"]


def test_the_check_notices_a_wrong_formula(monkeypatch):
    def one_more(null, cond, scale):
        return null + (scale + 1.0) * (cond - null)

    monkeypatch.setattr("threestudio_asd.distill.terms.classifier_free_guidance", one_more)
    assert check.main(*FILES) == 1


@pytest.mark.parametrize("gamma", [-0.74, 0.0])
def test_the_check_notices_a_wrong_gamma(monkeypatch, gamma):
    settings = check.CriticSettings(gamma=gamma, gamma_target="official")
    monkeypatch.setattr(check, "CriticSettings", lambda **kwargs: settings)
    assert check.main(*FILES) == 1
