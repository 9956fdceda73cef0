"""A 3D result from the judge's fixed views."""

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

FixedViews = tuple[Float[Tensor, "8 3 64 64"], Float[Tensor, "8 1 64 64"]]


@torch.no_grad()
def render_fixed_views(system: Any) -> FixedViews:
    """Colours in [0, 1] on grey 0.5, and opacity, from the judge's eight views."""
    cameras = RandomCameraDataset(
        RandomCameraDataModuleConfig(
            n_val_views=len(FIXED_AZIMUTHS),
            eval_elevation_deg=FIXED_ELEVATION,
            eval_camera_distance=EVAL_DISTANCE,
            eval_fovy_deg=EVAL_FOVY,
            eval_height=EVAL_SIZE,
            eval_width=EVAL_SIZE,
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
