"""threestudio's switches that trade speed for memory; none changes a result."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from threestudio_asd.teachers.offload import offload_frozen


def save_memory(cfg: Any, unets: Iterable[nn.Module], vae: nn.Module, device: torch.device) -> None:
    """Apply the guidance's ``enable_*`` switches; adapters must be in place already."""
    for unet in unets:
        if cfg.enable_channels_last_format:
            unet.to(memory_format=torch.channels_last)
        if cfg.enable_attention_slicing:
            unet.set_attention_slice(1)  # one head at a time, as in the official code
        if cfg.enable_sequential_cpu_offload:
            offload_frozen(unet, device)
    if cfg.enable_sequential_cpu_offload:
        offload_frozen(vae, device)
