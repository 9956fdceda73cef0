"""threestudio's SDI guidance on the bundled host; tests/references has the row's numbers."""

import logging
import re

import pytest
import torch

from threestudio_asd import host
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.builtin.on_asd import linearly_annealed
from threestudio_asd.guidance.builtin.sdi import IGNORED, NAME, StableDiffusionSDIGuidance


@pytest.fixture
def build(folders):
    def make(**cfg):
        return host.find(NAME)({"pretrained_model_name_or_path": str(folders["epsilon"]), **cfg})

    return make


def latents(n=2):
    return torch.randn(n, 8, 8, 4, generator=torch.Generator().manual_seed(5))


def stepped(guidance, *args, **kwargs):
    """What a guidance returns, always of the same draws."""
    torch.manual_seed(3)
    return guidance(latents(), *args, **kwargs, rgb_as_latents=True)


def test_it_is_registered():
    assert host.find(NAME) is StableDiffusionSDIGuidance


@pytest.mark.parametrize(("perp_neg", "more"), [(False, 1.0), (True, 0.0)])
def test_it_is_a_row_of_the_asd_guidance(build, make, prompt, views, perp_neg, more):
    """At other scales without perp-neg: e_y + g (e_y - e_null) is g + 1 in our terms, in the step
    and in its inversion."""
    own = {"inversion_n_steps": 4, "inversion_eta": 0.2}
    theirs = build(guidance_scale=9.0, inversion_guidance_scale=-5.0, t_anneal=False, **own)
    settings = {**own, "inversion_guidance_scale": -5.0 + more}
    same = make(method="sdi", guidance_scale=9.0 + more, settings=settings)
    out = stepped(theirs, prompt(perp_neg), **views())
    expected = stepped(same, prompt(perp_neg), **views())
    assert set(out) == {"loss_sdi", "grad_norm", "min_step", "max_step"}
    assert out["loss_sdi"].item() == expected["loss_asd"].item() > 0
    assert isinstance(theirs, host.BaseObject) and not isinstance(theirs, torch.nn.Module)


def test_without_the_inversion_the_noise_is_drawn(build, make, fixed, prompt, views):
    """SDS in units of x_0, by the mean over all entries."""
    t, noise = torch.tensor([300, 700]), torch.randn(2, 4, 8, 8)
    theirs = build(enable_sdi=False, guidance_scale=6.5)
    assert theirs.asd.step.method.noising == "gaussian"
    fixed(theirs.asd, (t, noise))
    sds = fixed(make(method="sds", weighting_strategy="asd", guidance_scale=7.5), (t, noise))
    out, expected = (stepped(g, prompt(), **views()) for g in (theirs, sds))
    assert out["loss_sdi"].item() == pytest.approx(expected["loss_asd"].item() / (4 * 8 * 8))


def test_t_falls_for_all_items_and_stays_at_the_minimum(build):
    guidance, seen = build(min_step_percent=0.25, max_step_percent=0.98), []
    for step in (0, 5000, 10000, 20000):
        guidance.do_update_step(0, step)
        times = guidance.asd.timesteps
        assert times.min_step == times.max_step
        seen.append(times.min_step)
    assert seen == [980, 615, 250, 250]
    assert linearly_annealed(0.0, 1.0, 0.25) == 0.75
    # A schedule's second item, as in threestudio.
    scheduled = build(max_step_percent=[100, 0.5, 0.9, 200])
    assert scheduled.asd.timesteps.max_step == 500
    free = build(t_anneal=False).asd.timesteps
    assert (free.min_step, free.max_step) == (20, 980)


def test_what_threestudio_ignores_is_ignored_and_told(build, prompt, views, caplog):
    with caplog.at_level(logging.INFO, logger="threestudio_asd"):
        plain = build()
    told = [r.getMessage() for r in caplog.records if "ignores" in r.getMessage()]
    assert len(told) == 1 and all(key in told[0] for key in IGNORED)
    others = {"weighting_strategy": "uniform", "var_red": False, "use_img_loss": True}
    changed = build(grad_clip=1e-3, n_ddim_steps=7, max_items_eval=1, **others)
    losses = [stepped(g, prompt(), **views())["loss_sdi"].item() for g in (plain, changed)]
    assert losses[0] == losses[1] > 0


@pytest.mark.parametrize(
    ("perp_neg", "said"),
    [
        (False, "from e_y.*without perp-neg.*guidance_scale 7.5 is s = 8.5.*-7.5 is s = -6.5"),
        (True, "from e_null.*with perp-neg.*guidance_scale 7.5 is s = 7.5.*-7.5 is s = -7.5"),
    ],
)
def test_the_convention_of_its_scales_is_told_once(build, prompt, views, caplog, perp_neg, said):
    guidance = build(guidance_scale=7.5, inversion_n_steps=1)
    with caplog.at_level(logging.INFO, logger="threestudio_asd"):
        for _ in range(2):
            stepped(guidance, prompt(perp_neg), **views())
    told = [r.getMessage() for r in caplog.records if "counts its scales" in r.getMessage()]
    assert len(told) == 1 and re.search(said, told[0])


def test_pictures_of_a_step(build, prompt, views):
    """The target is what the guided prediction makes of x_t, and the gradient leads there."""
    guidance = build(inversion_n_steps=3, guidance_scale=2.0)
    torch.manual_seed(3)
    rgb = torch.rand(2, 64, 64, 3)
    out = guidance(rgb, prompt(), **views(), test_info=True)
    for name in ("target", "noisy_img", "noise_img"):
        assert out[name].shape == (64, 64, 3) and 0 <= out[name].min() <= out[name].max() <= 1
    target = out["target_latent"]
    assert target.shape == out["noise_pred"].shape == (2, 4, 8, 8)
    torch.testing.assert_close(guidance.decode_latents(target)[0].permute(1, 2, 0), out["target"])
    torch.manual_seed(3)
    x0 = guidance.encode_images(torch.rand(2, 64, 64, 3).permute(0, 3, 1, 2))
    assert (x0 - target).norm().item() == pytest.approx(out["grad_norm"].item(), rel=1e-4)
    # |x_0 - target|^2 / 2, the mean over all entries.
    loss = (x0 - target).square().mean() / 2
    assert out["loss_sdi"].item() == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"token_merging": True}, "system.guidance.token_merging is not implemented"),
        ({"trainer_max_steps": 0}, "trainer_max_steps must be at least 1 with t_anneal"),
        ({"gamma": 0.0}, "unknown config key gamma"),
    ],
)
def test_bad_values_are_told_in_one_line(build, cfg, message):
    with pytest.raises(UserError, match=message) as caught:
        build(**cfg)
    assert "\n" not in str(caught.value)
