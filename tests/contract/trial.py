"""Facts about the folder that a training leaves behind."""

import re
from pathlib import Path
from typing import Any

import torch
from contract.hosts import Host
from omegaconf import OmegaConf

CONFIG = Path(__file__).parents[2] / "configs" / "tiny" / "asd-nerf.yaml"
SMALL = {
    "name": "contract",
    "tag": "trial",
    "use_timestamp": False,
    "data": {
        "width": 16,
        "height": 16,
        "eval_width": 16,
        "eval_height": 16,
        "n_val_views": 2,
        "n_test_views": 2,
    },
    "system": {
        "prompt_processor": {"prompt": "a red mug", "spawn": False},
        "renderer": {"num_samples_per_ray": 16},
    },
    "trainer": {"max_steps": 2, "val_check_interval": 2},
    "checkpoint": {"every_n_train_steps": 1},
}


def trial(host: Host, scratch: Path) -> dict[str, Any]:
    """Two steps of the embedded NeRF config: files, and what configs and checkpoints hold."""
    cfg = OmegaConf.merge(OmegaConf.load(CONFIG), SMALL, {"exp_root_dir": str(scratch / "outputs")})
    cfg.system_type = host.nerf_system
    # One that both hosts have of their own.
    cfg.system.background_type = "solid-color-background"
    cfg.system.background = {"color": [0.3, 0.3, 0.3]}
    del cfg.system.optimizer.params.guidance  # threestudio's system builds it after its optimiser
    if host.nerf_system != "asd-system":
        del cfg.system.stage
    OmegaConf.save(cfg, scratch / "small.yaml")
    host.train(scratch / "small.yaml")
    folder = scratch / "outputs" / "contract" / "trial"
    checkpoint = torch.load(folder / "ckpts" / "last.ckpt", weights_only=False, map_location="cpu")
    parsed = OmegaConf.load(folder / "configs" / "parsed.yaml")
    return {
        "files": dict.fromkeys(layout(folder), True),
        "parsed-keys": dict.fromkeys(parsed, True),
        "checkpoint-keys": dict.fromkeys(checkpoint, True),
        "checkpoint-step": [checkpoint["epoch"], checkpoint["global_step"]],
        "weights": {
            k: list(v.shape)
            for k, v in checkpoint["state_dict"].items()
            if k.startswith(("geometry.density", "geometry.feature", "background", "renderer"))
        },
    }


def layout(folder: Path) -> list[str]:
    """Paths below ``folder``, with a star for what depends on time and machine; without the code,
    which depends on the place of the launch."""
    files = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(
        {re.sub(r"events\..+", "events.*", f) for f in files if not f.startswith("code/")}
    )
