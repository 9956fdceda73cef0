"""Every option of the guidance on a device that refuses to mix with the CPU, with its losses."""

import dataclasses

import pytest
import torch
from pretended import pretended
from view_scenes import WIDTH, V, batch, latents

from threestudio_asd.distill.methods import METHODS
from threestudio_asd.distill.weighting import WEIGHTINGS
from threestudio_asd.teachers import unet
from threestudio_asd.tiny.random_sd import write_random_sd

pytestmark = pytest.mark.on_device

EDITED = {"reference_cond": "a cup"}
OPTIONS = {
    "the official gamma": {"gamma_target": "official"},
    "own draws": {"share_noise": False},
    "several draws": {"share_noise": False, "lora_n_timestamp_samples": 2},
    "a scale of the critic": {"guidance_scale_lora": 2.0},
    "the camera's projection": {"camera_condition_type": "mvp"},
    "no camera": {"camera_condition_type": "none"},
    "the camera always seen": {"lora_cfg_training": False},
    "one prompt for all views": {"view_dependent_prompting": False},
    "rescaled": {"guidance_rescale": 0.7},
    "clipped": {"grad_clip": 0.5},
    "channels last": {"enable_channels_last_format": True},
    "perp-neg": {"perp_neg": True},
    "perp-neg, the official gamma": {"perp_neg": True, "gamma_target": "official"},
    **{f"method {name}": {"method": name, "texts": EDITED} for name in METHODS},
    **{f"weighting {name}": {"weighting_strategy": name} for name in WEIGHTINGS},
}


def on(place, value):
    """The tensors of a dictionary or dataclass on ``place``."""
    if isinstance(value, torch.Tensor):
        return value.to(place)
    if isinstance(value, dict):
        return {key: on(place, x) for key, x in value.items()}
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        moved = {key: x.to(place) for key, x in fields.items() if isinstance(x, torch.Tensor)}
        return dataclasses.replace(value, **moved)
    return value


def step(guidance, text, views, place, image):
    """Losses and gradients of one step and its pictures, as plain tensors."""
    torch.manual_seed(3)
    image = image.clone().to(place).requires_grad_()
    as_latents = image.shape[-1] == 4
    batch = on(place, views) | {"reference": image.detach() / 2}
    out = guidance(image, on(place, text), **batch, rgb_as_latents=as_latents)
    losses = {key: value for key, value in out.items() if key.startswith("loss_")}
    sum(losses.values()).backward()
    found = {**losses, "image": image.grad}
    found |= {name: p.grad for name, p in guidance.named_parameters() if p.grad is not None}
    elsewhere = [name for name, value in found.items() if value.device != place]
    assert not elsewhere
    return {name: value.detach().cpu() for name, value in found.items()}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_option_computes_the_same(make, prompt, views, options):
    options = {"lora_rank": 2, **options}
    text = prompt(perp_neg=options.pop("perp_neg", False))
    image = torch.randn(2, 8, 8, 4)
    expected = step(make(**options), text, views(), torch.device("cpu"), image)
    with pretended() as place:
        found = step(make(**options), text, views(), place, image)
    assert found.keys() == expected.keys() and len(found) >= 2
    for name, value in expected.items():
        share = 1e-5 if name.startswith("loss_") else 1e-4  # guidance amplifies roundings
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=share * value.abs().max())


@pytest.mark.parametrize("method", ["mvdream", "vsd", "asd"])
def test_several_views_compute_the_same(make, prompt, tmp_path, method):
    folder = write_random_sd(tmp_path / "views", text_width=WIDTH, views=V)
    options = {"pretrained_model_name_or_path": str(folder), "method": method, "lora_rank": 2}
    arguments = prompt(), batch(1)
    expected = step(make(**options), *arguments, torch.device("cpu"), latents(1))
    with pretended() as place:
        found = step(make(**options), *arguments, place, latents(1))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4 * value.abs().max())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_option_computes_in_half_precision(make, prompt, views, monkeypatch, options):
    """What a GPU does unless a config forbids it: the teacher in float16, all else in float32."""
    options = {"lora_rank": 2, **options}
    text = prompt(perp_neg=options.pop("perp_neg", False))
    image = torch.randn(2, 8, 8, 4)
    with pretended() as place:
        full = step(make(**options), text, views(), place, image)
        monkeypatch.setattr(unet, "HALF_PRECISION", {place.type})
        guidance = make(**options)
        found = step(guidance, text, views(), place, image)
    assert guidance.teacher.net.dtype == torch.float16
    assert found.keys() == full.keys() and {x.dtype for x in found.values()} == {torch.float32}
    for name, value in full.items():
        error = (found[name] - value).norm() / value.norm()
        assert error < 0.05, (name, error)  # NaN is not


def test_images_are_encoded_and_pictures_made(make, prompt, views):
    with pretended() as place:
        guidance = make()
        image, text = torch.rand(2, 64, 64, 3, device=place), on(place, prompt())
        out = guidance(image, text, **on(place, views()), guidance_eval=True)
        latents = guidance.teacher.vae.encode(image.permute(0, 3, 1, 2)).latent_dist.mean.cpu()
    assert "eval" in out
    expected = make().teacher.vae.encode(image.cpu().permute(0, 3, 1, 2)).latent_dist.mean
    torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-5)
