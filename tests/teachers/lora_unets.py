"""Small UNets for LoRA files, and a comparison of their tensors with those that are expected."""

import torch

from threestudio_asd.tiny.random_sd import random_unet


def small_unet(linear, seed):
    torch.manual_seed(seed)
    return random_unet(use_linear_projection=linear)


def restored(model):
    """One of ``small_unets`` with its weights as they were; returns the UNet and these weights."""
    unet, state = model
    unet.load_state_dict(state)
    return unet, state


def differing(unet, expected, **tolerances):
    """Names of the tensors that are not as expected."""
    state = unet.state_dict()
    assert set(state) == set(expected)
    if torch.allclose(
        *(flat([values[name] for name in state]) for values in (state, expected)), **tolerances
    ):
        return []
    pairs = {name: (value.double(), expected[name].double()) for name, value in state.items()}
    return [name for name, pair in pairs.items() if not torch.allclose(*pair, **tolerances)]


def flat(values):
    return torch.cat([value.flatten() for value in values]).double()
