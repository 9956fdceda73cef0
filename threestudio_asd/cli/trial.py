"""A finished trial of the embedded world: load it, look at it from the fixed views, judge it."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.studio.checkpoint import load_checkpoint
from threestudio_asd.studio.data.random_camera import RandomCameraDataset
from threestudio_asd.studio.data.random_camera_config import RandomCameraDataModuleConfig
from threestudio_asd.studio.device import get_device
from threestudio_asd.studio.experiment import load_config
from threestudio_asd.studio.registry import find
from threestudio_asd.tiny.evaluation import Verdict, assess, parse_prompt
from threestudio_asd.tiny.render import (
    EVAL_DISTANCE,
    EVAL_FOVY,
    EVAL_GREY,
    EVAL_SIZE,
    FIXED_AZIMUTHS,
    FIXED_ELEVATION,
    fixed_views,
)

FixedViews = tuple[Float[Tensor, "8 3 64 64"], Float[Tensor, "8 1 64 64"]]


def load_system(trial: Path) -> Any:
    """The trained system of a trial folder, in eval mode.

    Raises:
        UserError: The folder holds no config or no usable checkpoint.
    """
    config, weights = trial / "configs/parsed.yaml", trial / "ckpts/last.ckpt"
    if not config.is_file():
        raise UserError(f"{trial} is no trial folder: it has no configs/parsed.yaml.")
    checkpoint = load_checkpoint(weights)
    cfg = load_config(config)
    system = find(cfg.system_type)(cfg.system, resumed=True)
    # Buffers and modules that only training has are not needed to look at the result.
    system.load_state_dict(checkpoint["state_dict"], strict=False)
    system.set_resume_status(int(checkpoint["epoch"]), int(checkpoint["global_step"]))
    system.do_update_step(
        int(checkpoint["epoch"]), int(checkpoint["global_step"]), on_load_weights=True
    )
    return system.to(get_device()).eval()


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


def judge_trial(trial: Path, prompt: str) -> tuple[Verdict, Path]:
    """Judge the trial's result; writes ``fixed_views.png`` (result above truth) and
    ``verdict.json`` into the trial folder and returns the verdict and the picture's path.

    Raises:
        UserError: The prompt is not of the embedded world, or the trial cannot be loaded.
    """
    object_name, color_name = parse_prompt(prompt)
    images, opacity = render_fixed_views(load_system(trial))
    verdict = assess(images, opacity, object_name, color_name)
    truth, _ = fixed_views(object_name, color_name)
    grid = torch.cat([torch.cat(list(row), dim=-1) for row in (images, truth)], dim=-2)
    picture = Image.fromarray((grid.permute(1, 2, 0).numpy() * 255).round().astype("uint8"))
    path = trial / "fixed_views.png"
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.LANCZOS).save(path)
    (trial / "verdict.json").write_text(json.dumps(verdict.as_dict(), indent=1) + "\n")
    return verdict, path
