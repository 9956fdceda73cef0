"""threestudio's switches that trade speed for memory; none changes a result."""

from typing import Any

import torch
from torch import nn

from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.teachers.views import join_views


def save_memory(cfg: Any, teacher: Any, critic: Any, device: torch.device) -> None:
    """Apply the guidance's ``enable_*`` switches to networks of diffusers; adapters must be in
    place already."""
    nets = {getattr(owner, "net", None) for owner in (teacher, critic)}
    for net in (net for net in nets if isinstance(net, FrozenUNet)):
        if cfg.enable_channels_last_format:
            net.unet.to(memory_format=torch.channels_last)
        if cfg.enable_attention_slicing:
            net.unet.set_attention_slice(1)  # one head at a time, as in the official code
            join_views(net.unet, net.views_at_once)  # diffusers puts processors of its own there
        if cfg.enable_sequential_cpu_offload:
            offload_frozen(net.unet, device)
    if cfg.enable_sequential_cpu_offload and hasattr(teacher, "vae"):
        offload_frozen(teacher.vae, device)


def offload_frozen(module: nn.Module, device: torch.device | str) -> None:
    """Frozen weights of ``module`` in CPU memory, on ``device`` only while their layer computes.

    As ``enable_sequential_cpu_offload`` of diffusers' pipelines (accelerate's hooks), but adapters
    stay on the device: an optimiser holds their tensors. It saves the memory of the weights and
    costs their transfer in each pass; a pass with gradient keeps them on the device until its
    backward pass is over.

    Args:
        device: Where the layers compute.
    """
    from accelerate import cpu_offload

    for layer in list(module.modules()):
        own = list(layer.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            cpu_offload(layer, device)
