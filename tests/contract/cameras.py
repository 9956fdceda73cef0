"""Facts about the batches of ``random-camera-datamodule``.

With ranges of no width a training batch is not random, so its values are facts as well.
"""

from typing import Any

import torch
import torch.nn.functional as F
from contract.hosts import Host
from omegaconf import OmegaConf
from torch import Tensor

EVAL = {
    "defaults": {"n_val_views": 4, "n_test_views": 4, "eval_height": 2, "eval_width": 2},
    "wide": {
        "n_val_views": 2,
        "n_test_views": 5,
        "eval_height": 2,
        "eval_width": 3,
        "eval_elevation_deg": -30.0,
        "eval_camera_distance": 2.5,
        "eval_fovy_deg": 45.0,
    },
    "unnormalized": {
        "n_val_views": 1,
        "n_test_views": 2,
        "eval_height": 3,
        "eval_width": 2,
        "rays_d_normalize": False,
    },
}
STILL = {
    "camera_perturb": 0.0,
    "center_perturb": 0.0,
    "up_perturb": 0.0,
    "light_position_perturb": 0.0,
}
FIXED = {
    **STILL,
    "elevation_range": [20.0, 20.0],
    "azimuth_range": [70.0, 70.0],
    "camera_distance_range": [1.8, 1.8],
    "fovy_range": [50.0, 50.0],
    "light_distance_range": [1.2, 1.2],
    "height": 2,
    "width": 3,
}
# A config and the global steps at which it is asked for a batch.
PIXEL = {"height": 1, "width": 1}
TRAIN: dict[str, tuple[dict[str, Any], list[int]]] = {
    "fixed": ({**FIXED, "batch_size": 2}, [1]),
    "below": ({**FIXED, "elevation_range": [-40.0, -40.0], "rays_d_normalize": False}, [1]),
    "three": ({**FIXED, **PIXEL, "batch_size": 3}, [1]),
    "first-step": ({**FIXED, **PIXEL}, [0]),
    "progressive": (
        {**FIXED, **PIXEL, "progressive_until": 100},
        [0, 10, 50, 99, 100, 101, 500],
    ),
}
MILESTONES = {
    **FIXED,
    "height": [4, 2, 3],
    "width": [5, 1, 2],
    "batch_size": [4, 1, 2],
    "resolution_milestones": [10, 20],
}


def cameras(host: Host) -> dict[str, Any]:
    steps = (0, 9, 10, 19, 20, 100)
    shapes = {str(k): _shapes(train_batch(host, MILESTONES, k)) for k in steps}
    facts: dict[str, Any] = {"train-shapes": shapes}
    for name, cfg in EVAL.items():
        for split in ("val", "test"):
            batches = _eval_batches(host, cfg, split)
            facts[f"{split}-{name}"] = {
                "count": len(batches),
                "shapes": _shapes(batches[0]),
                "values": {str(i): _values(b) for i, b in enumerate(batches)},
            }
    for name, (cfg, steps) in TRAIN.items():
        facts[f"train-{name}"] = {str(k): _values(train_batch(host, cfg, k)) for k in steps}
    return facts


def train_batch(host: Host, cfg: dict[str, Any], step: int) -> dict[str, Any]:
    """The batch that training would see at global step ``step``."""
    return next(iter(_train_batches(host, cfg, step)))


def _train_batches(host: Host, cfg: dict[str, Any], step: int) -> Any:
    data = host.registry["random-camera-datamodule"](OmegaConf.create(cfg))
    data.start_step = step  # the bundled host counts batches itself
    data.setup("fit")
    loader = data.train_dataloader()
    if hasattr(loader.dataset, "do_update_step"):
        loader.dataset.do_update_step(0, step)
    return loader


def _eval_batches(host: Host, cfg: dict[str, Any], split: str) -> list[dict[str, Any]]:
    data = host.registry["random-camera-datamodule"](OmegaConf.create(cfg))
    data.setup("fit" if split == "val" else "test")
    return list(data.val_dataloader() if split == "val" else data.test_dataloader())


def _shapes(batch: dict[str, Any]) -> dict[str, Any]:
    return {
        key: f"{str(v.dtype).removeprefix('torch.')} {list(v.shape)}"
        if isinstance(v, Tensor)
        else type(v).__name__
        for key, v in batch.items()
    }


def _values(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: v.tolist() if isinstance(v, Tensor) else v for key, v in batch.items()}


def statistics(host: Host) -> dict[str, Any]:
    """Moments of what is drawn at random; lengths in scene units, angles in radians."""
    torch.manual_seed(0)
    many = {**PIXEL, "batch_size": 4000}
    facts = {"dreamfusion": _moments(train_batch(host, many, 1))}
    magic3d = {**many, "light_sample_strategy": "magic3d"}
    facts["magic3d"] = _moments(train_batch(host, magic3d, 1))
    # A coin per batch decides how elevations are drawn.
    batches = _train_batches(host, {**PIXEL, "batch_size": 16}, 1)
    elevation = torch.cat([b["elevation"] for b, _ in zip(batches, range(300), strict=False)])
    facts["elevation"] = {"radians": _summary(torch.deg2rad(elevation))}
    return facts


def _moments(batch: dict[str, Any]) -> dict[str, Any]:
    elevation, azimuth = torch.deg2rad(batch["elevation"]), torch.deg2rad(batch["azimuth"])
    planar = elevation.cos()
    orbit = [planar * azimuth.cos(), planar * azimuth.sin(), elevation.sin()]
    orbit = batch["camera_distances"][:, None] * torch.stack(orbit, dim=-1)
    position, light, c2w = batch["camera_positions"], batch["light_positions"], batch["c2w"]
    straight = F.cosine_similarity(-c2w[:, :3, 2], -position)
    return {
        "azimuth": _summary(azimuth),
        "camera_distances": _summary(batch["camera_distances"]),
        "fovy": _summary(batch["fovy"]),
        "camera-offset": _summary((position - orbit).flatten()),
        "light-distance": _summary(light.norm(dim=-1)),
        "light-camera-cosine": _summary(F.cosine_similarity(light, position)),
        "view-centre-cosine": _summary(straight),
        "roll": _summary(c2w[:, 2, 0]),
    }


def _summary(x: Tensor) -> dict[str, float]:
    return {"mean": x.mean().item(), "std": x.std().item()}
