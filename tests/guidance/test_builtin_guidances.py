"""threestudio's guidances on the bundled host; tests/references compares their numbers."""

import logging

import pytest
import torch

from threestudio_asd import host
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.builtin.on_asd import sqrt_annealed
from threestudio_asd.guidance.builtin.sds import StableDiffusionGuidance
from threestudio_asd.guidance.builtin.vsd import StableDiffusionVSDGuidance

SDS, VSD = "stable-diffusion-guidance", "stable-diffusion-vsd-guidance"


@pytest.fixture
def build(folders):
    """Builds a guidance by its name, on the tiny model."""

    def make(name, **cfg):
        model = str(folders["epsilon"])
        cfg = {"pretrained_model_name_or_path": model, **cfg}
        if name == VSD:
            cfg = {"pretrained_model_name_or_path_lora": model, **cfg}
        torch.manual_seed(0)
        return host.find(name)(cfg)

    return make


def latents(n=2):
    return torch.randn(n, 8, 8, 4, generator=torch.Generator().manual_seed(5))


def test_they_are_registered():
    assert host.find(SDS) is StableDiffusionGuidance
    assert host.find(VSD) is StableDiffusionVSDGuidance


@pytest.mark.parametrize(("perp_neg", "ours"), [(False, 31.0), (True, 30.0)])
def test_sds_is_a_row_of_the_asd_guidance(build, make, fixed, prompt, views, perp_neg, ours):
    """At another scale without perp-neg: e_y + s (e_y - e_null) is s + 1 in our terms."""
    draw = torch.tensor([100, 800]), torch.randn(2, 4, 8, 8)
    theirs = build(SDS, guidance_scale=30.0)
    same = fixed(make(method="sds", guidance_scale=ours), draw)
    fixed(theirs.asd, draw)
    args = (latents(), prompt(perp_neg))
    out = theirs(*args, **views(), rgb_as_latents=True)
    expected = same(*args, **views(), rgb_as_latents=True)
    assert set(out) == {"loss_sds", "grad_norm", "min_step", "max_step"}
    assert out["loss_sds"].item() == expected["loss_asd"].item() > 0
    assert isinstance(theirs, host.BaseObject) and not isinstance(theirs, torch.nn.Module)


def test_the_gradient_reaches_the_render_through_the_autoencoder(build, prompt, views):
    for name in (SDS, VSD):
        rgb = torch.rand(2, 32, 32, 3, requires_grad=True)
        out = build(name)(rgb, prompt(), **views())
        out["loss_sds" if name == SDS else "loss_vsd"].backward()
        assert rgb.grad.abs().max() > 0


def test_parameters_and_state_of_vsd_are_the_critics(build, prompt, views, tmp_path):
    guidance = build(VSD)
    names = [name for name, _ in guidance.named_parameters()]
    assert names and all(n.startswith(("asd.critic.lora.", "asd.critic.camera.")) for n in names)
    out = guidance(latents(), prompt(), **views(), rgb_as_latents=True)
    assert set(out) == {"loss_vsd", "loss_lora", "grad_norm", "min_step", "max_step"}
    state = {f"guidance.{name}": value + 1.0 for name, value in guidance.state_dict().items()}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": state, "epoch": 0, "global_step": 0}, path)
    loaded = build(VSD, weights=f"{path}:guidance")
    assert torch.equal(loaded.state_dict()[names[0]], state[f"guidance.{names[0]}"])


def test_the_critic_draws_over_all_timesteps(build, drawn):
    guidance = build(VSD, max_step_percent=0.1, lora_n_timestamp_samples=2)
    draw, own = drawn(guidance.asd, 200)
    assert draw.t.max() <= 100 < own.t.max() and own.t.min() < 20
    assert own.noise.shape == (400, 4, 8, 8)


def test_vsd_says_once_that_it_ignores_perp_neg(build, prompt, views, caplog):
    guidance = build(VSD)
    with caplog.at_level(logging.INFO, logger="threestudio_asd"):
        for perp_neg in (False, True, True):
            guidance(latents(), prompt(perp_neg), **views(), rgb_as_latents=True)
    told = [record.message for record in caplog.records if "perp_neg" in record.message]
    assert told == [f"{VSD} ignores use_perp_neg, as threestudio's does."]


@pytest.mark.parametrize(
    ("name", "cfg", "message"),
    [
        (SDS, {"token_merging": True}, "system.guidance.token_merging is not implemented"),
        (SDS, {"use_img_loss": True}, "system.guidance.use_img_loss is not implemented"),
        (VSD, {"use_img_loss": True}, "system.guidance.use_img_loss is not implemented"),
        (SDS, {"sqrt_anneal": True, "trainer_max_steps": 0}, "trainer_max_steps must be at least"),
        (VSD, {"sqrt_anneal": True, "trainer_max_steps": 0}, "trainer_max_steps must be at least"),
        (SDS, {"weighting_strategy": "sd"}, "'sd'; choose one of: asd, fantasia3d, sds, uniform"),
        (VSD, {"camera_condition_type": "c2w"}, "camera_condition_type 'c2w'"),
        (VSD, {"lora_n_timestamp_samples": 0}, "lora_n_timestamp_samples must be at least 1"),
        (SDS, {"gamma": 0.0}, "unknown config key gamma"),
        (VSD, {"weighting_strategy": "sds"}, "unknown config key weighting_strategy"),
    ],
)
def test_bad_values_are_told_in_one_line(build, name, cfg, message):
    with pytest.raises(UserError, match=message) as caught:
        build(name, **cfg)
    assert "\n" not in str(caught.value)


def test_token_merging_parameters_alone_are_accepted(build):
    build(SDS, token_merging_params={"ratio": 0.5})


@pytest.mark.parametrize("name", [SDS, VSD])
def test_the_range_can_be_moved(build, name):
    guidance = build(name)
    guidance.set_min_max_steps(max_step_percent=0.29)
    assert (guidance.asd.timesteps.min_step, guidance.asd.timesteps.max_step) == (20, 290)


def test_annealing_ends_at_the_minimum():
    assert [sqrt_annealed(0.02, 0.98, p) for p in (0.0, 1.0, 9.0)] == [0.98, 0.02, 0.02]
    assert sqrt_annealed(0.0, 1.0, 0.25) == 0.5


@pytest.mark.parametrize(("max_items", "shown"), [(1, 1), (4, 2), (-1, 2)])
def test_pictures_of_a_step(build, fixed, prompt, views, counted, max_items, shown):
    guidance = build(SDS, max_items_eval=max_items, guidance_scale=1.0)
    fixed(guidance.asd, (torch.tensor([140, 0]), torch.randn(2, 4, 8, 8)))
    with counted(guidance.teacher.unet) as seen:
        out = guidance(torch.rand(2, 64, 64, 3), prompt(), **views(), guidance_eval=True)["eval"]
    images = {name: value for name, value in out.items() if name.startswith("imgs_")}
    assert set(images) == {"imgs_noisy", "imgs_1step", "imgs_1orig", "imgs_final"}
    for image in images.values():
        assert image.shape == (shown, 64, 64, 3) and not image.requires_grad
        assert image.min() >= 0 and image.max() <= 1
    # From t = 121, the nearest of 50: 1 step with the prediction that there is, 6 with new ones.
    # Below the sampler's last timestep, 1, there is no step left.
    assert seen["calls"] == 1 + 6
    assert out["noise_levels"] == pytest.approx([0.121, 0.001][:shown])
    assert out["texts"] == ["n0.12\ne10.0\na-70.0\nc1.50", "n0.00\ne20.0\na120.0\nc1.50"][:shown]
    assert out["bs"] == shown
