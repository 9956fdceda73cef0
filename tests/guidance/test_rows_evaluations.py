"""How often the UNet runs for the rows of docs/methods.md, counted by hooks on the network, and by
what counts for records."""

import pytest
import torch

# row, perp-neg -> rows per item without gradient, with gradient, and calls of the network; where
# an inversion goes before, at t = 451
TABLE = {
    ("csd", False): (3, 0, 1),
    ("csd", True): (5, 0, 1),
    ("nfsd", False): (3, 0, 1),
    ("nfsd", True): (5, 0, 1),
    ("sds-bridge", False): (2, 0, 1),
    ("sds-bridge", True): (2, 0, 1),
    ("sds-bridge-3d", False): (2, 0, 1),
    ("sds-bridge-first", False): (2, 0, 1),
    ("sds-bridge-first", True): (4, 0, 1),
    ("sdi-drawn", True): (4, 0, 1),
    ("dds", False): (4, 0, 1),
    ("dds", True): (6, 0, 1),
    ("asd-pair", False): (4, 2, 2),
    ("asd-pair", True): (6, 2, 2),
    # The critic that is trained, and the one that the generator asks with and without the camera.
    ("esd", False): (2 + 2, 1, 4),
    ("esd", True): (4 + 2, 1, 4),
    ("cfd", False): (2, 0, 1),
    ("cfd", True): (4, 0, 1),
    ("cfd-2d", False): (2, 0, 1),
    # The network beside the UNet is none of it.
    ("lmc-sds", False): (2, 0, 1),
    ("lmc-sds", True): (4, 0, 1),
    # From -99, 1, 101, .., 401: six steps.
    ("sdi", False): (2 * 6 + 2, 0, 6 + 1),
    ("sdi", True): (4 * 6 + 4, 0, 6 + 1),
    # At t and t', of which the drawn 451 is the latter.
    ("cds", False): (2 + 2, 0, 2),
    ("cds", True): (4 + 4, 0, 2),
    # From 999, .., 499 to r, at r, and of the render at r and t.
    ("dsd", False): (2 * 6 + 2 + 2 + 2, 0, 6 + 3),
    ("dsd", True): (4 * 6 + 4 + 4 + 4, 0, 6 + 3),
    # As SDI, and once more.
    ("jsd", False): (2 * 6 + 2 + 2, 0, 6 + 2),
    ("jsd", True): (4 * 6 + 4 + 4, 0, 6 + 2),
    # Teacher and critic are differentiated; the critic that is trained sees no gradient of renders.
    ("sim", False): (0, 2 + 1 + 1, 3),
    ("sim", True): (0, 4 + 1 + 1, 3),
    # s = 351: from 1 and 201, then from s to t.
    ("ism", False): (2 + 1 + 2, 0, 2 + 1 + 1),
    ("ism", True): (2 + 1 + 4, 0, 2 + 1 + 1),
}
EDITS = ("dds", "asd-pair")
EDIT = {"texts": {"reference_cond": "a cup"}}


@pytest.mark.parametrize(("row", "perp_neg"), TABLE)
def test_evaluations_per_item(make, prompt, views, counted, row, perp_neg):
    plain, grad, calls = TABLE[row, perp_neg]
    options = EDIT if row in EDITS else {}
    guidance = make(method=row, lora_cfg_training=False, **options)
    guidance.set_min_max_steps(0.451, 0.451)
    batch = views() | ({"reference": torch.rand(2, 64, 64, 3)} if row in EDITS else {})
    with counted(guidance.teacher.unet) as seen:
        guidance(torch.rand(2, 64, 64, 3), prompt(perp_neg), **batch)
    assert seen == {"calls": calls, "plain": 2 * plain, "grad": 2 * grad}
    # What a comparison's record says.
    assert guidance.teacher.net.evaluated == {"rows": 2 * (plain + grad), "with_gradient": 2 * grad}


def test_sdis_longest_inversion(make, prompt, views, counted):
    """At t = 980: eleven steps of two rows."""
    guidance = make(method="sdi", settings={"inversion_exact": 1})
    guidance.set_min_max_steps(0.98, 0.98)
    with counted(guidance.teacher.unet) as seen:
        guidance(torch.rand(2, 64, 64, 3), prompt(), **views())
    assert seen == {"calls": 12, "plain": 2 * (22 + 2), "grad": 0}


def test_further_critic_steps_of_a_pair_see_both_sides(make, prompt, views, counted):
    guidance = make(method="asd-pair", lora_n_steps=3, lora_cfg_training=False, **EDIT)
    batch = views() | {"reference": torch.rand(2, 64, 64, 3)}
    with counted(guidance.teacher.unet) as seen:
        losses = list(guidance.extra_critic_losses(torch.rand(2, 64, 64, 3), prompt(), **batch))
    assert len(losses) == 2 and all(loss.requires_grad for loss in losses)
    # e_y of each side, and the critic, twice.
    assert seen == {"calls": 4, "plain": 2 * 4, "grad": 2 * 4}
