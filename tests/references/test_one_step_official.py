"""The official numbers of SiD, SiDA, SiD-LSG and DMD2, recomputed with the rows of the table."""

import json
from pathlib import Path

import check
import one_step
import pytest
from safetensors import safe_open

HERE = Path(__file__).parent
FILES = HERE / "onestep_official.safetensors", HERE / "onestep_weights.safetensors"
#: Inputs of a case; everything else in the file is a result.
GIVEN = {"z", "cond", "t", "noise", "real", "cond_real", "dropped", "sigma", "noisy", "sigma_d"}
GIVEN |= {"z_d", "cond_d", "t_d", "noise_d", "t_g", "noise_g", "t_gf", "noise_gf"}
GIVEN |= {"t_real", "noise_real"}
#: Inputs of the case of losses alone, which networks make in the others.
LEAVES = {"x", "y_real", "y_fake", "logits", "y_fake_d", "logits_fake", "logits_real"}
with safe_open(FILES[0], "pt") as opened:
    CASES = json.loads(opened.metadata()["cases"])
    KEYS = [key.partition(".")[::2] for key in opened.keys()]  # noqa: SIM118
STORED = {name: {key for case, key in KEYS if case == name} for name in CASES}


@pytest.fixture(scope="module")
def errors():
    return check.check(*FILES)


@pytest.mark.parametrize("name", CASES)
def test_every_result_agrees_with_the_official_code(errors, name):
    given = GIVEN | LEAVES if name.startswith("edm_leaves") else GIVEN
    assert set(errors[name]) == STORED[name] - given
    assert max(errors[name].values()) < check.TOLERANCE, errors[name]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sid_alpha1", {"alpha": 1.05}),
        ("sid_alpha1", {"sigma_data": 1.0}),
        ("sid_alpha1", {"t_init": 624}),
        ("sida_alpha1", {"batch_gpu": 1}),
        ("sida_alpha1", {"lsd": 0.9}),
        ("sida_alpha1", {"lsg_gan": 0.02}),
        ("sida_guided", {"kappa_real": 1.9}),
        ("sida_guided", {"kappa_fake": 1.9}),
        ("lsg_k2", {"kappa1": 1.9}),
        ("lsg_k2", {"kappa23": 1.9}),
        ("lsg_k2", {"kappa4": 1.9}),
        ("lsg_v_k1p5", {"prediction_type": "epsilon"}),
        ("dmd2_gan", {"gen_cls_loss_weight": 2e-3}),
        ("dmd2_gan", {"guidance_cls_loss_weight": 2e-2}),
        ("dmd2_dm", {"real_guidance_scale": 1.8}),
        ("edm_leaves_alpha1", {"sigma_data": 0.6}),
    ],
)
def test_every_setting_is_read(monkeypatch, name, change):
    read = one_step.results
    monkeypatch.setattr(one_step, "results", lambda case, *a: read(case | change, *a))
    one = {name: CASES[name]}
    inputs, weights = check.load_file(FILES[0]), check.load_file(FILES[1])
    assert max(check._check_one_step(one, inputs, weights)[name].values()) > 2e-3


def test_the_check_notices_a_wrong_formula(monkeypatch):
    """The command, on all cases."""
    monkeypatch.setattr(
        "threestudio_asd.distill.one_step.objective.inverse_error_weight",
        lambda x, f: 1.01 / (x - f).detach().abs().mean(dim=(1, 2, 3)),
    )
    assert check.main(*FILES) == 1
