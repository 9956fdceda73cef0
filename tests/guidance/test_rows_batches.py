"""A batch is its items: every row of the method table, any teacher, with perp-neg and without."""

import pytest
import torch
from exact_rows import SCHEDULE, SHAPE, Streams, normal, step_of, text_of, views_of

from threestudio_asd.distill.methods import METHODS
from threestudio_asd.distill.noising import NoisyBatch

ROWS = list(METHODS)
B = 4
T = torch.tensor([60, 199, 430, 870])
X0, CAMERA = normal(B, *SHAPE, seed=4), normal(B, 4, 4, seed=6)
#: What the gradient of a batch's loss is of those of its items alone.
OF_ITEMS = {"batch": 1 / B, "mean": 1 / B, "pixel": 1.0, "sum": 1.0}


def gradients(name, kind, perp_neg, items):
    """w (T - S), or an item's loss's gradient, and the loss's gradient of some of the items."""
    step, text = step_of(name, kind), text_of(B, perp_neg).with_camera(CAMERA)
    text, t = text.rows(items), T[items]
    latents = X0[items].clone().requires_grad_()
    draws = Streams(B, items)
    noisy = step.noisy(latents, t, views_of(B, items), text, draws=draws)
    found = step.evaluate(latents, text, noisy, 7.5)
    loss = torch.autograd.grad(found.loss, latents)[0]
    return len(t) * loss if found.grad is None else found.grad, loss


@pytest.mark.parametrize("perp_neg", [False, True], ids=["plain", "perp-neg"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ROWS)
def test_a_batch_is_a_loop_over_its_items(name, kind, perp_neg):
    grad, loss = gradients(name, kind, perp_neg, slice(None))
    each = [gradients(name, kind, perp_neg, slice(b, b + 1)) for b in range(B)]
    grads, losses = (torch.cat(parts) for parts in zip(*each, strict=True))
    assert grads.flatten(1).norm(dim=1).min() > 0.01
    torch.testing.assert_close(grad, grads, rtol=1e-7, atol=1e-8)
    share = OF_ITEMS[METHODS.get(name).reduction]
    torch.testing.assert_close(loss, share * losses, rtol=1e-7, atol=1e-10)
    # The prediction type of a teacher is none of the method's business.
    same, _ = gradients(name, "epsilon", perp_neg, slice(None))
    torch.testing.assert_close(grad, same, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("perp_neg", [False, True])
@pytest.mark.parametrize("name", ["csd", "sds", "cfd", "sdi", "ism"])
def test_perp_neg_changes_what_reads_e_y(name, perp_neg):
    with_it, _ = gradients(name, "epsilon", perp_neg, slice(None))
    plain, _ = gradients(name, "epsilon", False, slice(None))
    assert (with_it - plain).abs().max() > 0.01 or not perp_neg


def test_a_noisings_batch_is_consistent():
    """x_t = alpha x_0 + sigma noise, whatever made it."""
    for name in ROWS:
        step, text = step_of(name), text_of(B)
        noisy = step.noisy(X0, T, views_of(B), text, draws=Streams(B))
        again = NoisyBatch.of(SCHEDULE, X0, noisy.t, noisy.noise)
        torch.testing.assert_close(noisy.x_t, again.x_t, rtol=1e-9, atol=1e-9)
