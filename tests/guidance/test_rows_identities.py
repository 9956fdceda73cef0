"""What rows of the method table become at special values, with exact scores."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from exact_rows import (
    EXACT,
    SCHEDULE,
    SHAPE,
    LinearCritic,
    at,
    levels_of,
    normal,
    step_of,
    text_of,
    views_of,
)

from threestudio_asd.distill.inversion import ddim_step
from threestudio_asd.distill.methods import METHODS
from threestudio_asd.errors import UserError

B = 3
T = torch.tensor([90, 430, 870])
X0, EPS = normal(B, *SHAPE, seed=4), normal(B, *SHAPE, seed=5)


def grad_of(step, scale=7.5, text=None, settings=None, noisy=None, x0=X0):
    """w (T - S), and the loss's gradient."""
    latents = x0.clone().requires_grad_()
    text = text_of(len(x0)) if text is None else text
    noisy = at(x0, T, EPS) if noisy is None else noisy
    settings = step.defaults | (settings or {})
    found = step.evaluate(latents, text, noisy, scale, settings=settings)
    return found.grad, torch.autograd.grad(found.loss, latents)[0]


def close(a, b, tolerance=1e-10):
    assert b.abs().max() > 0.01
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * b.abs().max().item())


def csd(c, u, z, m, p=0.0):
    names = ("cond_scale", "negative_scale", "null_scale", "noise_scale", "perpneg_scale")
    return dict(zip(names, (c, u, z, m, p), strict=True))


@pytest.mark.parametrize("perp_neg", [False, True])
def test_csd_at_k_and_one_minus_k_without_its_noise_is_sds(perp_neg):
    k, text = 30.0, text_of(B, perp_neg)
    sds, sds_loss = grad_of(step_of("sds"), k, text)
    found, loss = grad_of(step_of("csd"), 1.0, text, csd(k, 1 - k, 0.0, -1.0, k))
    close(found, sds)
    close(loss, sds_loss)


def test_csds_repulsion_has_a_scale_of_its_own():
    text = text_of(B, True)
    twice, once, none = (
        grad_of(step_of("csd"), text=text, settings=csd(2.0, -1.0, 0.3, 0.1, p))[0]
        for p in (2.0, 1.0, 0.0)
    )
    close(twice - once, once - none)
    plain, _ = grad_of(step_of("csd"), settings=csd(2.0, -1.0, 0.3, 0.1, 5.0))
    close(none, plain)


def test_a_normalised_gradient_is_each_items_own_direction():
    plain, _ = grad_of(step_of("csd"), settings=csd(1.0, -0.5, -0.5, 0.0))
    found, loss = grad_of(step_of("csd", normalise=True), settings=csd(1.0, -0.5, -0.5, 0.0))
    close(found, plain / plain.flatten(1).norm(dim=1).view(-1, 1, 1, 1), 1e-6)
    close(loss, found / B)


def test_a_bridge_from_the_null_prompt_is_csds_classifier_alone():
    text = text_of(B, bridge_source="n", bridge_target="y")
    bridge, _ = grad_of(step_of("sds-bridge-3d"), 100.0, text)
    close(
        bridge, grad_of(step_of("csd", weighting="uniform"), settings=csd(1.0, -1.0, 0.0, 0.0))[0]
    )


def test_bridges_differ_in_scale_and_weight_alone():
    two, _ = grad_of(step_of("sds-bridge"))
    three, _ = grad_of(step_of("sds-bridge-3d"))
    close(two, 40 * levels_of(T)[1] ** 2 * three)


def test_nfsd_is_sds_without_its_noise_until_200_and_points_away_from_bad_pictures_after():
    t = torch.tensor([30, 199, 200])
    noisy = at(X0, t, EPS)
    nfsd, _ = grad_of(step_of("nfsd"), noisy=noisy)
    without, _ = grad_of(step_of("sjc"), noisy=noisy)
    close(nfsd[:2], without[:2])
    e_neg = EXACT.epsilon(noisy.x_t, t, text_of(B)["negative"])
    close(nfsd[2:], (without - levels_of(t)[1] ** 2 * e_neg)[2:])


def test_dds_of_equal_pairs_is_zero():
    step, views = step_of("dds"), replace(views_of(B), reference=X0)
    for perturbed, words in ((0.0, "y"), (0.1, "y"), (0.0, "source")):
        x0, text = X0 + perturbed, text_of(B, reference_cond=words)
        noisy = step.noisy(x0, T, views, text)
        grad, _ = grad_of(step, text=text, noisy=noisy, x0=x0)
        assert (grad.abs().max() < 1e-12) == (not perturbed and words == "y")


def test_dds_written_out(monkeypatch):
    step, views, text = step_of("dds"), views_of(B), text_of(B)
    noisy = step.noisy(X0, T, views, text)
    calls, asked = [], step.teacher.epsilon
    monkeypatch.setattr(
        step.teacher, "epsilon", lambda x, *rest: calls.append(len(x)) or asked(x, *rest)
    )
    grad, loss = grad_of(step, 7.5, text, noisy=noisy)
    assert calls == [4 * B]
    alpha, sigma = levels_of(T)
    there = alpha * views.reference + sigma * noisy.noise
    e = {
        (place, name): EXACT.epsilon(x, T, text[name])
        for place, x in (("edit", noisy.x_t), ("original", there))
        for name in ("null", "cond", "reference_cond")
    }
    edit = e["edit", "null"] + 7.5 * (e["edit", "cond"] - e["edit", "null"])
    null = e["original", "null"]
    original = null + 7.5 * (e["original", "reference_cond"] - null)
    close(grad, edit - original)
    close(loss, grad / 16)  # H W, and neither C nor B


def test_dds_without_an_original_is_told():
    step = step_of("dds")
    for reference, has in ((None, "no reference"), (X0[:, :, :2], r"\(3, 3, 2, 4\)")):
        with pytest.raises(UserError, match=f"has {has}.*as its 'reference'"):
            step.noisy(X0, T, replace(views_of(B), reference=reference), text_of(B))


def test_esd_with_nothing_hidden_is_vsd_and_by_default_hides_half_of_the_camera():
    text = text_of(B).with_camera(normal(B, 4, 4, seed=6))
    vsd, _ = grad_of(step_of("vsd"), text=text)
    all_of_it, _ = grad_of(step_of(replace(METHODS.get("esd"), critic_scale=1.0)), text=text)
    close(all_of_it, vsd)
    half, _ = grad_of(step_of("esd"), text=text)
    critic, noisy, w = LinearCritic(), at(X0, T, EPS), levels_of(T)[1] ** 2
    known = critic.predict(noisy.x_t, T, text.critic)
    unknown = critic.predict(noisy.x_t, T, replace(text.critic, camera=None))
    close(half, vsd + w * (known - unknown).detach() / 2)


def test_sdi_that_repeats_its_prediction_and_follows_its_target_is_ddim():
    """kappa: the guided prediction of the time before; x_0: its denoised picture."""
    step, text, scale = step_of("sdi"), text_of(1), 4.0
    times = list(range(980, 20, -40))
    x_t = normal(1, *SHAPE, seed=7)
    latents, kappa, sampled = torch.zeros_like(x_t), x_t, x_t
    # So that the first x_t is the sampler's.
    alpha, sigma = levels_of(times[0])
    kappa = (x_t - alpha * latents) / sigma
    for t, before in zip(times, [*times[1:], None], strict=True):
        noisy = at(latents, t, kappa)
        torch.testing.assert_close(noisy.x_t, sampled, rtol=1e-8, atol=1e-8)
        found = step.evaluate(latents, text, noisy, scale)
        said = found.predictions
        kappa = said["null"] + scale * (said["cond"] - said["null"])
        latents = latents - found.grad
        if before is not None:
            now, then = (torch.tensor([time]) for time in (t, before))
            sampled = ddim_step(SCHEDULE, sampled, kappa, now, then)


def test_cfd_with_one_field_and_its_step_is_ddim():
    """lambda = sigma / alpha; the step is (lambda - lambda') / (2 lambda)."""
    step, text, field, scale = step_of("cfd"), text_of(2), normal(2, *SHAPE, seed=8), 3.0
    times = list(range(900, 60, -40))
    x, sampled = torch.zeros(2, *SHAPE).double(), None
    for t, before in pairwise(times):
        noisy = at(x, t, field)
        sampled = noisy.x_t if sampled is None else sampled
        torch.testing.assert_close(noisy.x_t, sampled, rtol=1e-8, atol=1e-8)
        _, loss = grad_of(step, scale, text, noisy=noisy, x0=x)
        now, then = (levels_of(time) for time in (t, before))
        ratio = (now[1] / now[0], then[1] / then[0])
        x = x - (ratio[0] - ratio[1]) / (2 * ratio[0]) * loss * len(x)
        said = {name: EXACT.epsilon(noisy.x_t, noisy.t, text[name]) for name in ("null", "cond")}
        guided = said["null"] + scale * (said["cond"] - said["null"])
        sampled = then[0] * (sampled - now[1] * guided) / now[0] + then[1] * guided


def test_sdi_with_drawn_noise_is_sds_in_units_of_x0():
    sdi, mean = grad_of(step_of("sdi"))
    sds, total = grad_of(step_of("sds", weighting="asd"))
    close(sdi, sds)
    close(mean, total / 48)  # C H W


def test_ism_without_an_interval_and_with_one_null_prompt_is_the_classifier_alone():
    step, text = step_of("ism"), text_of(B, empty="n")
    settings = step.defaults | {"interval_delta": 0.0}
    noisy = step.noisy(X0, T, views_of(B), text, settings)
    grad, loss = grad_of(step, 7.5, text, settings, noisy)
    alpha, sigma = levels_of(T)
    e_n, e_y = (EXACT.epsilon(noisy.x_t, T, text[name]) for name in ("null", "cond"))
    close(grad, sigma / alpha * 7.5 * (e_y - e_n))
    close(loss, grad)  # the sum over views
    apart = text_of(B, empty="")
    other, _ = grad_of(step, 7.5, apart, settings, step.noisy(X0, T, views_of(B), apart, settings))
    assert (other - grad).abs().max() > 0.01
