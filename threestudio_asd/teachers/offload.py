"""Frozen weights in CPU memory, on the GPU only while their layer computes."""

import torch
from torch import nn


def offload_frozen(module: nn.Module, device: torch.device | str) -> None:
    """Sequential offload of every layer of ``module`` without trainable parameters.

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
