"""Facts about geometry, materials, backgrounds and the volume renderer: keys, shapes, values.

Hash grids are filled with one number, because the order of their entries is their own affair;
networks with a fixed sequence.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from contract.cameras import FIXED, train_batch
from contract.definitions import outcome
from contract.hosts import Host
from omegaconf import OmegaConf
from torch import Tensor, nn

GRID = {
    "otype": "HashGrid",
    "n_levels": 4,
    "n_features_per_level": 2,
    "log2_hashmap_size": 8,
    "base_resolution": 4,
    "per_level_scale": 1.5,
}
POINTS = [[0.3, -0.2, 0.5], [0.0, 0.0, 0.1], [-0.7, 0.6, 0.2], [0.9, 0.9, -0.9]]
ACTIVATIONS = (
    *("none", "lin2srgb", "exp", "shifted_exp", "trunc_exp", "shifted_trunc_exp", "sigmoid"),
    *("tanh", "shifted_softplus", "scale_-11_01", "softplus", "relu", "silu", "elu"),
    *("Sigmoid", "cubic"),
)
GEOMETRIES: dict[str, dict[str, Any]] = {
    "default": {},
    "dreamfusion": {"density_bias": "blob_dreamfusion", "density_blob_std": 0.2, "radius": 2.0},
    "number": {"density_bias": -1.5, "density_activation": "exp"},
    "laplacian": {"normal_type": "finite_difference_laplacian"},
    "pred": {"normal_type": "pred"},
    "analytic": {"normal_type": "analytic"},
    "progressive": {
        "pos_encoding_config": {
            **GRID,
            "otype": "ProgressiveBandHashGrid",
            "start_level": 1,
            "start_step": 0,
            "update_steps": 10,
        }
    },
    "include-xyz": {"pos_encoding_config": {**GRID, "include_xyz": True}},
    "no-features": {"n_feature_dims": 0},
}


def fill(module: nn.Module) -> nn.Module:
    for name, parameter in module.named_parameters():
        index = torch.arange(parameter.numel(), dtype=torch.float32)
        values = torch.full_like(index, 0.1) if "encoding" in name else 0.4 * torch.cos(0.7 * index)
        parameter.data = values.reshape(parameter.shape)
    return module


def make(host: Host, name: str, cfg: dict[str, Any], **kwargs: Any) -> Any:
    return host.registry[name](OmegaConf.create(cfg), **kwargs)


def numbers(value: Any) -> Any:
    """Tensors, also in a dict, as lists."""
    if isinstance(value, dict):
        return {key: numbers(v) for key, v in value.items()}
    return value.detach().tolist() if isinstance(value, Tensor) else value


def activations(host: Host) -> dict[str, Any]:
    x = torch.tensor([-3.0, -0.5, 0.0, 0.002, 0.5, 2.0])
    return {
        name: outcome(lambda n=name: numbers(host.get_activation(n)(x))) for name in ACTIVATIONS
    }


def geometries(host: Host) -> dict[str, Any]:
    points = torch.tensor(POINTS)
    facts: dict[str, Any] = {}
    for name, cfg in GEOMETRIES.items():
        cfg = {"pos_encoding_config": GRID, **cfg}
        geometry = fill(make(host, "implicit-volume", cfg))
        geometry.do_update_step(0, 12)
        facts[name] = {
            "plain": numbers(geometry(points)),
            # A constant density has no normal but roundings, another one on every processor.
            **(
                {}
                if name == "number"
                else {"normal": numbers(geometry(points, output_normal=True))}
            ),
            "density": numbers(geometry.forward_density(points)),
            "export": numbers(geometry.export(points)),
            "parameters": _parameters(geometry),
        }
    return facts


def _parameters(module: nn.Module) -> dict[str, Any]:
    """Names in a checkpoint, and the number of a hash grid's entries."""
    state = module.state_dict()
    grid = {"encoding": sum(v.numel() for k, v in state.items() if "encoding" in k)}
    return grid | {k: list(v.shape) for k, v in state.items() if "encoding" not in k}


def materials(host: Host) -> dict[str, Any]:
    features = torch.tensor([[-1.0, 0.0, 2.0], [0.5, 3.0, -2.0]])
    inputs = {
        "features": features,
        "positions": torch.tensor([[0.1, 0.2, 0.3], [-0.4, 0.0, 0.5]]),
        "viewdirs": F.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]), dim=-1),
        "shading_normal": F.normalize(torch.tensor([[1.0, 2.0, 2.0], [0.0, -1.0, -1.0]]), dim=-1),
        "light_positions": torch.tensor([[1.0, 1.0, 2.0], [2.0, 0.0, 1.0]]),
    }
    point_light = make(host, "diffuse-with-point-light-material", {})
    facts = {}
    for step in (0, 999, 1000):
        point_light.do_update_step(0, step)
        facts[f"eval-step-{step}"] = numbers(point_light.eval()(**inputs))
    for shading in ("albedo", "textureless", "diffuse"):
        facts[shading] = numbers(point_light(**inputs, shading=shading))
    facts["ambient-ratio"] = numbers(point_light(**inputs, ambient_ratio=0.3, shading="diffuse"))
    facts["export"] = numbers(point_light.export(**inputs))
    facts["parameters"] = _parameters(point_light)
    network = {
        "input_feature_dims": 3,
        "mlp_network_config": {"otype": "VanillaMLP", "n_neurons": 4, "n_hidden_layers": 1},
    }
    with_network = fill(make(host, "no-material", network))
    plain = make(host, "no-material", {})
    return {
        "point-light": {**facts, "requires-normal": point_light.requires_normal},
        "no-material": {
            "plain": numbers(plain(**inputs)),
            "export": numbers(plain.export(**inputs)),
            "network": numbers(with_network(**inputs)),
            "parameters": _parameters(with_network),
            "requires-normal": plain.requires_normal,
        },
    }


BACKGROUNDS: dict[str, tuple[str, dict[str, Any]]] = {
    "solid": ("solid-color-background", {"color": [0.2, 0.5, 0.7]}),
    "solid-learned": ("solid-color-background", {"learned": True}),
    "environment": ("neural-environment-map-background", {}),
    "environment-eval-color": (
        "neural-environment-map-background",
        {"eval_color": [1.0, 0.0, 0.5]},
    ),
}


def backgrounds(host: Host) -> dict[str, Any]:
    dirs = F.normalize(torch.tensor(POINTS), dim=-1).reshape(2, 1, 2, 3)
    facts = {}
    for name, (entry, cfg) in BACKGROUNDS.items():
        background = fill(make(host, entry, cfg))
        facts[name] = {
            "train": numbers(background(dirs=dirs)),
            "eval": numbers(background.eval()(dirs=dirs)),
            "parameters": _parameters(background),
        }
        random = make(host, entry, {**cfg, "random_aug": True, "random_aug_prob": 1.0})(dirs=dirs)
        # One colour for each image of the batch.
        flat = random.flatten(1, 2)
        facts[name]["random-within-image"] = (flat - flat[:, :1]).abs().max().item()
        facts[name]["random-differs"] = bool((flat[0, 0] != flat[1, 0]).any())
    return facts


def _ball(host: Host) -> nn.Module:
    """A soft ball of radius 0.5 with known density, colour and normals."""

    class Ball(host.implicit_geometry):
        def forward_density(self, points: Tensor) -> Tensor:
            return 30 * torch.sigmoid(20 * (0.5 - points.norm(dim=-1, keepdim=True)))

        def forward(self, points: Tensor, output_normal: bool = False) -> dict[str, Tensor]:
            out = {"density": self.forward_density(points), "features": 3 * points}
            if output_normal:
                out["normal"] = out["shading_normal"] = F.normalize(points, dim=-1)
            return out

    return Ball(OmegaConf.create({}))


RENDERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "normals": ({}, {"requires_normal": True}),
    "comp-normal": ({"return_comp_normal": True}, {"requires_normal": True}),
    "perturb": ({"return_normal_perturb": True}, {"requires_normal": True}),
    "planes": ({"near_plane": 1.5, "far_plane": 1.9}, {}),
}


def renders(host: Host) -> dict[str, Any]:
    """Outputs in training and evaluation: shapes (N is the number of samples) and images."""
    batch = train_batch(host, {**FIXED, "batch_size": 2}, 1)
    facts = {}
    for name, (cfg, material) in RENDERS.items():
        options = {"num_samples_per_ray": 64, "randomized": False, "grid_prune": False, **cfg}
        renderer = _renderer(host, options, material)
        facts[name] = _modes(renderer, batch)
    pruned = _renderer(host, {"num_samples_per_ray": 64}, {})
    pruned.do_update_step(0, 0)
    facts["grid-prune"] = {"train": _output(pruned, batch)[0]}
    pruned.eval()
    facts["grid-prune"]["eval"] = _output(pruned, batch)[0]
    colors = {
        "per-image": torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]),
        "per-pixel": torch.linspace(0, 1, 36).reshape(2, 2, 3, 3),
    }
    plain = _renderer(host, {"num_samples_per_ray": 64, "grid_prune": False}, {}).eval()
    for name, color in colors.items():
        facts[f"background-{name}"] = numbers(plain(**batch, bg_color=color)["comp_rgb"])
    return facts


def _renderer(host: Host, cfg: dict[str, Any], material: dict[str, Any]) -> Any:
    return make(
        host,
        "nerf-volume-renderer",
        cfg,
        geometry=_ball(host),
        material=make(host, "no-material", material),
        background=make(host, "solid-color-background", {"color": [0.2, 0.5, 0.7]}),
    )


def _modes(renderer: Any, batch: dict[str, Any]) -> dict[str, Any]:
    facts = {}
    modes: dict[str, Callable] = {"train": renderer.train, "eval": renderer.eval}
    for mode, switch in modes.items():
        switch()
        shapes, images = _output(renderer, batch)
        facts[mode] = {"shapes": shapes, "images": images}
    return facts


def _output(renderer: Any, batch: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    out = renderer(**batch)
    samples = len(out["ray_indices"]) if "ray_indices" in out else -1
    shapes = {
        k: f"{str(v.dtype).removeprefix('torch.')} "
        + " ".join("N" if n == samples else str(n) for n in v.shape)
        for k, v in out.items()
    }
    images = {k: numbers(v) for k, v in out.items() if v.ndim == 4}
    return shapes, images
