"""Small parts that several tests and benchmarks are made of."""

import torch

from threestudio_asd.teachers.plain import PlainTeacher
from threestudio_asd.teachers.unet import FrozenUNet

#: A hash grid of a few thousand rows and a network on it, as a geometry's keys.
ENCODING = {
    "otype": "HashGrid",
    "n_levels": 4,
    "n_features_per_level": 2,
    "log2_hashmap_size": 12,
    "base_resolution": 4,
    "per_level_scale": 1.5,
}
MLP = {"otype": "VanillaMLP", "activation": "ReLU", "n_neurons": 16, "n_hidden_layers": 1}
NETWORKS = {"pos_encoding_config": ENCODING, "mlp_network_config": MLP}


def unet_teacher(net: FrozenUNet) -> PlainTeacher:
    """A UNet without autoencoder and text encoder: all that a step asks of a teacher."""
    return PlainTeacher(net.epsilon, net.latent_shape, net.schedule)


def on(place: torch.device, *shape: int) -> torch.Tensor:
    """Random numbers from 0 to 1 on a device."""
    return torch.rand(*shape, device=place)
