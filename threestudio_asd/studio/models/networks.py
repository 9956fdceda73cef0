"""Encodings and MLPs from tiny-cuda-nn style configs (``otype`` and its options).

Encodings take points in [0, 1]^d. Options that would change the result and are not implemented
here raise; nothing is ignored.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio_asd.errors import UserError
from threestudio_asd.kernels.harmonics import MAX_DEGREE, spherical_harmonics
from threestudio_asd.kernels.hashgrid import HashGrid
from threestudio_asd.studio.base import Updateable
from threestudio_asd.studio.models.activations import get_activation

GRID_SHAPE = {
    "n_levels": 16,
    "n_features_per_level": 2,
    "log2_hashmap_size": 19,
    "base_resolution": 16,
    "per_level_scale": 2.0,
}


def _hash_grid(n_input_dims: int, config: Mapping[str, Any]) -> HashGrid:
    if n_input_dims != 3:
        raise UserError(f"HashGrid encodes 3 dimensions, not {n_input_dims}.")
    fixed = {"type": "Hash", "interpolation": "Linear"}
    options = _options(config, {**GRID_SHAPE, **fixed})
    _require(options, **fixed)
    return HashGrid(**{key: options[key] for key in GRID_SHAPE})


class GridEncoding(nn.Module):
    """Multiresolution hash grid (Instant NGP, arXiv:2201.05989)."""

    def __init__(self, n_input_dims: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        # Checkpoints hold its table under threestudio's name, encoding.encoding.params.
        self.encoding = _hash_grid(n_input_dims, config)
        self.n_input_dims, self.n_output_dims = n_input_dims, self.encoding.n_output_dims

    def forward(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N C"]:
        return self.encoding(x)


class ProgressiveBandHashGrid(nn.Module, Updateable):
    """Hash grid that starts with ``start_level`` levels and, from ``start_step`` on, gains one
    every ``update_steps`` steps; the features of the levels to come are zero."""

    def __init__(self, n_input_dims: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        schedule = {key: config.get(key) for key in ("start_level", "start_step", "update_steps")}
        if (
            not all(isinstance(v, int) and v >= 0 for v in schedule.values())
            or not (schedule["update_steps"])
        ):
            raise UserError(
                f"ProgressiveBandHashGrid needs start_level, start_step and update_steps > 0 as "
                f"whole numbers, got {schedule}."
            )
        self.schedule = schedule
        grid_config = {k: v for k, v in config.items() if k not in schedule}
        self.encoding = _hash_grid(n_input_dims, grid_config)
        self.n_input_dims, self.n_output_dims = n_input_dims, self.encoding.n_output_dims
        self.n_levels = self.encoding.spec.n_levels
        level = torch.arange(self.n_levels).repeat_interleave(self.n_output_dims // self.n_levels)
        self.register_buffer("level_of_feature", level, persistent=False)
        self.update_step(0, 0)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        gained = max(global_step - self.schedule["start_step"], 0) // self.schedule["update_steps"]
        self.current_level = min(self.schedule["start_level"] + gained, self.n_levels)

    def forward(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N C"]:
        features = self.encoding(x)
        if self.current_level == self.n_levels:
            return features
        return features * (self.level_of_feature < self.current_level)


class SphericalHarmonics(nn.Module):
    """Spherical harmonics of directions d, given as (d + 1) / 2."""

    def __init__(self, n_input_dims: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.degree = _options(config, {"degree": 3})["degree"]
        if n_input_dims != 3 or self.degree not in range(1, MAX_DEGREE + 1):
            raise UserError(
                f"SphericalHarmonics encodes 3 dimensions up to degree {MAX_DEGREE}, "
                f"not {n_input_dims} dimensions and degree {self.degree}."
            )
        self.n_input_dims, self.n_output_dims = n_input_dims, self.degree**2

    def forward(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N C"]:
        return spherical_harmonics(x, self.degree)


class CompositeEncoding(nn.Module, Updateable):
    """An encoding that, with ``include_xyz``, is preceded by the points scaled to [-1, 1]."""

    def __init__(self, encoding: nn.Module, include_xyz: bool = False) -> None:
        super().__init__()
        self.encoding, self.include_xyz = encoding, include_xyz
        self.n_input_dims = encoding.n_input_dims
        self.n_output_dims = encoding.n_output_dims + include_xyz * encoding.n_input_dims

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        features = self.encoding(x)
        return torch.cat([2 * x - 1, features], dim=-1) if self.include_xyz else features


class VanillaMLP(nn.Module):
    """ReLU network without biases, always in float32; PyTorch's default initialisation."""

    def __init__(self, n_input_dims: int, n_output_dims: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        defaults = {"activation": "ReLU", "output_activation": "none"}
        options = _options(config, {**defaults, "n_neurons": 64, "n_hidden_layers": 1})
        _require(options, activation="ReLU")
        if options["n_neurons"] < 1 or options["n_hidden_layers"] < 1:
            raise UserError(f"An MLP needs n_neurons and n_hidden_layers of 1 or more: {options}.")
        widths = [n_input_dims] + [options["n_neurons"]] * options["n_hidden_layers"]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out, bias=False), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], n_output_dims, bias=False))
        self.output_activation = get_activation(options["output_activation"])

    def forward(self, x: Float[Tensor, "N Ci"]) -> Float[Tensor, "N Co"]:
        with torch.autocast(x.device.type, enabled=False):
            return self.output_activation(self.layers(x.float()))


ENCODINGS = {
    "HashGrid": GridEncoding,
    "Grid": GridEncoding,
    "ProgressiveBandHashGrid": ProgressiveBandHashGrid,
    "SphericalHarmonics": SphericalHarmonics,
}
# tiny-cuda-nn's networks differ from VanillaMLP in speed and half precision only.
MLPS = {"VanillaMLP": VanillaMLP, "FullyFusedMLP": VanillaMLP, "CutlassMLP": VanillaMLP}


def default_encoding() -> dict[str, Any]:
    """The hash grid of a geometry whose config names none, threestudio's."""
    return {
        "otype": "HashGrid",
        "n_levels": 16,
        "n_features_per_level": 2,
        "log2_hashmap_size": 19,
        "base_resolution": 16,
        "per_level_scale": 1.447269237440378,
    }


def default_mlp() -> dict[str, Any]:
    """The network behind it."""
    return {
        "otype": "VanillaMLP",
        "activation": "ReLU",
        "output_activation": "none",
        "n_neurons": 64,
        "n_hidden_layers": 1,
    }


def get_encoding(n_input_dims: int, config: Mapping[str, Any]) -> CompositeEncoding:
    """The encoding ``config["otype"]`` names; ``include_xyz`` (default false) adds the points."""
    options = {k: v for k, v in config.items() if k not in ("otype", "include_xyz")}
    encoding = _lookup(ENCODINGS, "encoding", config)(n_input_dims, options)
    return CompositeEncoding(encoding, bool(config.get("include_xyz", False)))


def get_mlp(n_input_dims: int, n_output_dims: int, config: Mapping[str, Any]) -> VanillaMLP:
    """The network ``config["otype"]`` names."""
    options = {k: v for k, v in config.items() if k != "otype"}
    return _lookup(MLPS, "network", config)(n_input_dims, n_output_dims, options)


def _lookup(table: dict[str, type], kind: str, config: Mapping[str, Any]) -> type:
    otype = config.get("otype")
    if otype not in table:
        raise UserError(f"Unknown {kind} otype '{otype}'; the bundled host has {sorted(table)}.")
    return table[otype]


def _options(config: Mapping[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(config) - set(defaults))
    if unknown:
        raise UserError(f"Unknown option(s) {unknown}; this otype takes {sorted(defaults)}.")
    return {**defaults, **config}


def _require(options: dict[str, Any], **values: str) -> None:
    for key, value in values.items():
        if str(options[key]).lower() != value.lower():
            raise UserError(
                f"{key}: {options[key]} is accepted by tiny-cuda-nn but not implemented on the "
                f"bundled host; use {key}: {value}."
            )
