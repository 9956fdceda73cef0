"""Where the run computes: the chosen CUDA device, or the CPU."""

import gc
import os

import torch


def get_rank() -> int:
    """Rank of this process among those that share one training; 0 when there is only one."""
    for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        if key in os.environ:
            return int(os.environ[key])
    return 0


def get_device() -> torch.device:
    """CUDA if this process sees a CUDA device, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def cleanup() -> None:
    """Return unused memory to the system and to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
