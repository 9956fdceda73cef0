"""MVDream's target: the rescaled reconstruction, against the formula in plain torch."""

from dataclasses import replace

import pytest
import torch

from threestudio_asd.distill.methods import MVDREAM, SDS
from threestudio_asd.distill.noising import NoisyBatch
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.distill.settings import Settings
from threestudio_asd.distill.terms import TARGETS
from threestudio_asd.distill.weighting import weight
from threestudio_asd.errors import UserError

SCHEDULE = DiscreteSchedule.scaled_linear()
S, V, SHAPE = 2, 4, (4, 6, 6)
SCALE = 50.0


@pytest.fixture
def said():
    """Predictions of S scenes of V views."""
    x0, noise, null, cond = torch.randn(4, S * V, *SHAPE, dtype=torch.float64)
    t = torch.tensor([120, 850]).repeat_interleave(V)
    noisy = NoisyBatch.of(SCHEDULE, x0, t, noise)
    # Predictions that are near the noise, as a network's.
    networks = {"null": noise + 0.3 * null, "cond": noise + 0.3 * cond}
    return Predictions(noisy, networks, schedule=SCHEDULE, views_at_once=V)


def with_rho(said, rho):
    return replace(said, settings=Settings({"recon_std_rescale": rho}))


def alpha_sigma(t):
    abar = SCHEDULE.alphas_cumprod[t].double().view(-1, 1, 1, 1)
    return abar.sqrt(), (1 - abar).sqrt()


def reconstructed(said):
    """x_0 of e^s and of e_y, and the factor of each scene, for rho = 1."""
    alpha, sigma = alpha_sigma(said.t)
    guided = said["null"] + SCALE * (said["cond"] - said["null"])
    x0, plain = ((said.x_t - sigma * e) / alpha for e in (guided, said["cond"]))
    factor = torch.stack(
        [
            (plain[rows].std() + 1e-8) / (x0[rows].std() + 1e-8)
            for rows in (slice(s * V, (s + 1) * V) for s in range(S))
        ]
    )
    return x0, plain, factor.repeat_interleave(V).view(-1, 1, 1, 1)


def gradient(method, said):
    return method.gradient(said, SCALE, weight("asd", SCHEDULE, said.t, said.x_t))


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5, 1.0])
def test_the_gradient_is_the_distance_to_the_rescaled_reconstruction(said, rho):
    x0, _, factor = reconstructed(said)
    expected = said.noisy.x0 - (rho * factor + 1 - rho) * x0
    found = gradient(MVDREAM, with_rho(said, rho))
    scale = expected.abs().amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)


def test_without_rescaling_it_is_sds(said):
    assert torch.equal(gradient(MVDREAM, with_rho(said, 0.0)), gradient(SDS, said))
    assert not torch.allclose(gradient(MVDREAM, with_rho(said, 0.5)), gradient(SDS, said))


def test_a_scene_is_rescaled_as_a_whole_to_the_contrast_without_guidance(said):
    target = TARGETS.get("guided-x0-rescaled")
    said = with_rho(said, 1.0)
    alpha, sigma = alpha_sigma(said.t)
    x0, plain, _ = reconstructed(said)
    found = (said.x_t - sigma * target(said, SCALE)) / alpha
    for s in range(S):
        rows = slice(s * V, (s + 1) * V)
        assert found[rows].std().item() == pytest.approx(plain[rows].std().item(), rel=1e-5)
        ratios = (found / x0)[rows]
        torch.testing.assert_close(
            ratios, ratios[:1, :1, :1, :1].expand_as(ratios), rtol=1e-4, atol=0
        )
    # By itself each view would have another factor.
    alone = target(replace(said, views_at_once=1), SCALE)
    assert not torch.allclose(alone, target(said, SCALE), rtol=1e-3)


def test_scenes_do_not_know_of_each_other(said):
    said = with_rho(said, 0.5)
    cond = said["cond"].clone()
    cond[V:] += torch.randn(V, *SHAPE, dtype=torch.float64)
    other = replace(said, said={**said.said, "cond": cond})
    first, second = gradient(MVDREAM, said), gradient(MVDREAM, other)
    assert torch.equal(first[:V], second[:V]) and not torch.allclose(first[V:], second[V:])


def test_the_rows_default_is_half_and_its_name_is_known():
    assert MVDREAM.with_settings({}, "here") == {"recon_std_rescale": 0.5}
    assert MVDREAM.with_settings({"recon_std_rescale": 0.2}, "") == {"recon_std_rescale": 0.2}
    with pytest.raises(UserError, match=r"here has 'recon_std'.*did you mean recon_std_rescale"):
        MVDREAM.with_settings({"recon_std": 0.5}, "here")


@pytest.mark.parametrize("rho", [-0.1, 1.5])
def test_more_than_all_of_it_cannot_be_pulled_back(said, rho):
    with pytest.raises(UserError, match=r"must lie in \[0, 1\]"):
        gradient(MVDREAM, with_rho(said, rho))
