"""LMC-SDS: what a corrective network beside the teacher takes out of SDS."""

import pytest
import torch
from exact_rows import EXACT, SHAPE, at, levels_of, normal, step_of, text_of

from threestudio_asd.distill.methods import METHODS
from threestudio_asd.distill.noising import NOISINGS, Draws
from threestudio_asd.distill.prediction_types import to_epsilon
from threestudio_asd.distill.settings import Settings
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.inputs.predict import AskTeacher
from threestudio_asd.teachers.analytic import stating
from threestudio_asd.teachers.unet import CorrectiveNet
from threestudio_asd.tiny.train.corrective import new_corrective

B = 3
T = torch.tensor([90, 430, 870])
X0, EPS = normal(B, *SHAPE, seed=4), normal(B, *SHAPE, seed=5)


def grad_of(step, scale, noise=EPS, perp_neg=False, settings=None):
    text, noisy = text_of(B, perp_neg), at(X0, T, noise)
    settings = step.defaults | (settings or {})
    return step.evaluate(X0.clone().requires_grad_(), text, noisy, scale, settings=settings).grad


def close(a, b):
    assert b.abs().max() > 0.01
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * b.abs().max().item())


@pytest.mark.parametrize("perp_neg", [False, True])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_with_the_identity_it_is_sds(kind, perp_neg):
    step = step_of("lmc-sds", kind)
    step.teacher.corrective = lambda: lambda x0, t: x0
    close(grad_of(step, 30.0, perp_neg=perp_neg), grad_of(step_of("sds"), 30.0, perp_neg=perp_neg))


def test_in_units_of_x0_it_is_the_guess_minus_the_denoised_render():
    grad = grad_of(step_of("lmc-sds", weighting="asd"), 7.5)
    alpha, sigma = levels_of(T)
    x_t, text = alpha * X0 + sigma * EPS, text_of(B)
    e_n, e_y = (EXACT.epsilon(x_t, T, text[name]) for name in ("null", "cond"))
    denoised = (x_t - sigma * (e_n + 7.5 * (e_y - e_n))) / alpha
    mean, v = EXACT.means[EXACT.names.index("n")], 0.7**2
    guess = mean + alpha**2 * v / (alpha**2 * v + sigma**2) * (X0 - mean)
    close(grad, guess - denoised)


def test_a_network_that_is_right_everywhere_leaves_the_classifier_alone_in_the_mean():
    """Gaussian predictions are affine in the noise: a draw and its opposite give the mean."""
    scale = 7.5
    names = ("cond_scale", "negative_scale", "null_scale", "noise_scale")
    classifier = dict(zip(names, (scale, -scale, 0.0, 0.0), strict=True))
    both = [grad_of(step_of("lmc-sds"), scale, noise) for noise in (EPS, -EPS)]
    alone = [grad_of(step_of("csd"), 1.0, n, settings=classifier) for n in (EPS, -EPS)]
    close(sum(both) / 2, sum(alone) / 2)
    # In a single draw it is not, and SDS never is: its mean holds the pull of e_null.
    assert (both[0] - alone[0]).abs().max() > 0.1
    sds = sum(grad_of(step_of("sds"), scale, noise) for noise in (EPS, -EPS)) / 2
    assert (sds - sum(alone) / 2).abs().max() > 0.1


def test_a_new_network_is_the_identity():
    x0 = torch.randn(2, 4, 16, 16)
    corrective = new_corrective()
    assert torch.equal(corrective(x0, torch.tensor([3, 900])), x0)
    assert sum(p.numel() for p in corrective.parameters()) <= 500_000


def test_a_model_brings_its_network_along(make, prompt, views, fixed, folders):
    t, noise = torch.tensor([400, 700]), torch.randn(2, 4, 8, 8)
    guidance = fixed(make(method="lmc-sds", weighting_strategy="asd"), (t, noise))
    latents = torch.randn(2, 8, 8, 4, requires_grad=True)
    guidance(latents, prompt(), rgb_as_latents=True, **views())["loss_asd"].backward()
    x0 = latents.detach().permute(0, 3, 1, 2)
    b = CorrectiveNet.load(folders["epsilon"])(x0, t)
    assert (b - x0).abs().mean() > 0.01
    schedule = guidance.teacher.schedule
    source = to_epsilon(schedule, b, schedule.add_noise(x0, noise, t), t, "sample")
    sds = fixed(make(method="sds", weighting_strategy="asd"), (t, noise))
    again = latents.detach().clone().requires_grad_()
    sds(again, prompt(), rgb_as_latents=True, **views())["loss_asd"].backward()
    w = schedule.sigma(t, x0) / schedule.alpha(t, x0)
    moved = (w * (noise - source) / 2).permute(0, 2, 3, 1)
    torch.testing.assert_close(latents.grad, again.grad + moved, rtol=1e-4, atol=1e-5)


def test_a_model_without_one_is_told_before_the_training(make, random_sd):
    with pytest.raises(UserError, match=r"no corrective network .*train corrective` trains one"):
        make(method={0: "sds", 5: "lmc-sds"}, pretrained_model_name_or_path=str(random_sd))
    make(method="sds", pretrained_model_name_or_path=str(random_sd))


def test_a_teacher_of_another_kind_is_told():
    step = step_of("lmc-sds")
    with pytest.raises(UserError, match=r"corrective network .* give the teacher a corrective\(\)"):
        stating(EXACT, "epsilon").corrective()
    assert step.asked == {"null", "cond", "corrective"}


def test_weights_that_lack_a_part_are_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    source, folder = folders["epsilon"] / "corrective", tmp_path / "corrective"
    folder.mkdir()
    (folder / "config.json").write_text((source / "config.json").read_text())
    weights = load_file(source / "diffusion_pytorch_model.safetensors")
    del weights["conv_in.bias"]
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match=r"lacks conv_in\.bias"):
        CorrectiveNet.load(tmp_path)


def test_a_noising_cannot_ask_it():
    step = step_of("lmc-sds")
    ask = AskTeacher(step.teacher, text_of(B), ("corrective",), Settings(), Draws())
    with pytest.raises(UserError, match=r"'corrective', which is said of clean renders"):
        ask("corrective", X0, T)
    assert NOISINGS.get(METHODS.get("lmc-sds").noising).asks == ()
