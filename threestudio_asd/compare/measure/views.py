"""A 3D result from the judge's fixed views, and from all around."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.studio.data.random_camera import RandomCameraDataset
from threestudio_asd.studio.data.random_camera_config import RandomCameraDataModuleConfig
from threestudio_asd.tiny.render import (
    EVAL_DISTANCE,
    EVAL_FOVY,
    EVAL_GREY,
    EVAL_SIZE,
    FIXED_AZIMUTHS,
    FIXED_ELEVATION,
)

TURNTABLE_VIEWS = 24
TURNTABLE_SIZE = 96  # pixels


def render_fixed_views(
    system: Any,
) -> tuple[Float[Tensor, "8 3 64 64"], Float[Tensor, "8 1 64 64"]]:
    """Colours in [0, 1] on grey 0.5, and opacity, from the judge's eight views."""
    return _render_around(system, len(FIXED_AZIMUTHS), EVAL_SIZE)


def render_turntable(system: Any) -> Float[Tensor, "T 3 h w"]:
    """Colours in [0, 1] on grey 0.5 from ``TURNTABLE_VIEWS`` azimuths, counter-clockwise."""
    system.on_validation_model_eval()
    try:
        return _render_around(system, TURNTABLE_VIEWS, TURNTABLE_SIZE)[0]
    finally:
        system.on_validation_model_train()


@torch.no_grad()
def _render_around(
    system: Any, views: int, size: int
) -> tuple[Float[Tensor, "T 3 h w"], Float[Tensor, "T 1 h w"]]:
    """Colours and opacity at azimuth 0, 360 / views, ..., from the judge's height and distance."""
    cameras = RandomCameraDataset(
        RandomCameraDataModuleConfig(
            n_val_views=views,
            eval_elevation_deg=FIXED_ELEVATION,
            eval_camera_distance=EVAL_DISTANCE,
            eval_fovy_deg=EVAL_FOVY,
            eval_height=size,
            eval_width=size,
        ),
        split="val",
    )
    images, opacities = [], []
    for index in range(len(cameras)):
        batch = cameras.collate([cameras[index]])
        batch = {k: v.to(system.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        grey = torch.full((1, 3), EVAL_GREY, device=system.device)
        out = system.renderer(**batch, bg_color=grey)
        images.append(out["comp_rgb"].permute(0, 3, 1, 2).cpu())
        opacities.append(out["opacity"].permute(0, 3, 1, 2).cpu())
    return torch.cat(images).clamp(0, 1), torch.cat(opacities)
