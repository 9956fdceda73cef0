"""LoRA files change every tensor of a UNet as their formula says."""

import random

import pytest
import torch
from lora_draws import Draw, draw_file, drawn_lora, lora
from lora_kinds import APPLIED
from lora_unets import differing, restored

from threestudio_asd.teachers.lora.fuse import fuse_lora

DRAWS = 7  # of each kind


@pytest.mark.parametrize("kind", APPLIED)
def test_every_tensor_follows_the_formula(small_unets, tmp_path, kind):
    first = DRAWS * list(APPLIED).index(kind)
    for seed in range(first, first + DRAWS):
        unet, before = restored(small_unets[seed % 2])
        drawn = APPLIED[kind](draw := Draw(unet, seed))
        fuse_lora(unet, drawn.save(tmp_path / str(seed), draw.rng))
        wrong = differing(unet, drawn.expected, rtol=1e-5, atol=1e-5)
        assert wrong == [], f"draw {seed} of {kind}"
        for path in drawn.layers:
            assert not torch.equal(unet.get_submodule(path).weight, before[f"{path}.weight"])


def test_there_are_enough_draws():
    assert DRAWS * len(APPLIED) >= 200


def test_a_layer_is_changed_in_the_teachers_precision(small_unets, tmp_path):
    unet, _ = restored(small_unets[0])
    unet = unet.to(torch.bfloat16)
    try:
        drawn = drawn_lora(Draw(unet, 0))
        fuse_lora(unet, drawn.save(tmp_path, random.Random(0)))
        assert unet.dtype == torch.bfloat16
        assert differing(unet, drawn.expected, rtol=2**-8, atol=0.0) == []  # rounded once
    finally:
        unet.float()


@pytest.mark.parametrize("place", ["_lora.down.weight.alpha", ".alpha"])
def test_alpha_under_another_name_of_its_layer(small_unets, tmp_path, place):
    """As diffusers names the alphas that it takes out of kohya's files."""
    unet, _ = restored(small_unets[0])
    drawn = draw_file(Draw(unet, 0), lora, ("diffusers 0.17",), ("attention",))
    for key in [key for key in drawn.state if key.endswith(".alpha")]:
        value = drawn.state.pop(key)
        drawn.state[key.replace("_lora.alpha", place)] = value
    fuse_lora(unet, drawn.save(tmp_path, random.Random(0)))
    assert differing(unet, drawn.expected, rtol=1e-5, atol=1e-5) == []
