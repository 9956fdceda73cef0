"""How often the UNet runs for the rows of docs/methods.md, counted by hooks on the network."""

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
    ("dds", False): (4, 0, 1),
    ("dds", True): (6, 0, 1),
    # The critic that is trained, and the one that the generator asks with and without the camera.
    ("esd", False): (2 + 2, 1, 4),
    ("esd", True): (4 + 2, 1, 4),
    ("cfd", False): (2, 0, 1),
    ("cfd", True): (4, 0, 1),
    ("cfd-2d", False): (2, 0, 1),
    # From -99, 1, 101, .., 401: six steps.
    ("sdi", False): (2 * 6 + 2, 0, 6 + 1),
    ("sdi", True): (4 * 6 + 4, 0, 6 + 1),
    # s = 351: from 1 and 201, then from s to t.
    ("ism", False): (2 + 1 + 2, 0, 2 + 1 + 1),
    ("ism", True): (2 + 1 + 4, 0, 2 + 1 + 1),
}
EDIT = {"texts": {"reference_cond": "a cup"}}


@pytest.mark.parametrize(("row", "perp_neg"), TABLE)
def test_evaluations_per_item(make, prompt, views, counted, row, perp_neg):
    plain, grad, calls = TABLE[row, perp_neg]
    options = EDIT if row == "dds" else {}
    guidance = make(method=row, lora_cfg_training=False, **options)
    guidance.set_min_max_steps(0.451, 0.451)
    batch = views() | ({"reference": torch.rand(2, 64, 64, 3)} if row == "dds" else {})
    with counted(guidance.teacher.unet) as seen:
        guidance(torch.rand(2, 64, 64, 3), prompt(perp_neg), **batch)
    assert seen == {"calls": calls, "plain": 2 * plain, "grad": 2 * grad}


def test_sdis_longest_inversion(make, prompt, views, counted):
    """At t = 980: eleven steps of two rows."""
    guidance = make(method="sdi", settings={"inversion_exact": 1})
    guidance.set_min_max_steps(0.98, 0.98)
    with counted(guidance.teacher.unet) as seen:
        guidance(torch.rand(2, 64, 64, 3), prompt(), **views())
    assert seen == {"calls": 12, "plain": 2 * (22 + 2), "grad": 0}
