"""threestudio's switches that trade speed for memory; none changes a result."""

from typing import Any

import torch

from threestudio_asd.teachers.offload import offload_frozen
from threestudio_asd.teachers.unet import FrozenUNet


def save_memory(cfg: Any, teacher: Any, critic: Any, device: torch.device) -> None:
    """Apply the guidance's ``enable_*`` switches to networks of diffusers; adapters must be in
    place already."""
    nets = {getattr(owner, "net", None) for owner in (teacher, critic)}
    for unet in (net.unet for net in nets if isinstance(net, FrozenUNet)):
        if cfg.enable_channels_last_format:
            unet.to(memory_format=torch.channels_last)
        if cfg.enable_attention_slicing:
            unet.set_attention_slice(1)  # one head at a time, as in the official code
        if cfg.enable_sequential_cpu_offload:
            offload_frozen(unet, device)
    if cfg.enable_sequential_cpu_offload and hasattr(teacher, "vae"):
        offload_frozen(teacher.vae, device)
