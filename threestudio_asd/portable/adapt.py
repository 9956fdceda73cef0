"""Turn an imported threestudio from CUDA to the CPU, in memory only."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import torch

HALF = (16, "16", "16-mixed", "16-true")


def adapt_to_cpu() -> None:
    """Let the threestudio that is imported already, and this process, run without CUDA.

    threestudio names CUDA in four places that no config reaches: ``get_device()``, the device
    on which it builds encodings, ``torch.cuda.device(...)`` and its launcher's accelerator. They
    are replaced in memory. Half precision becomes single.

    Raises:
        RuntimeError: if threestudio is not imported.
    """
    if "threestudio" not in sys.modules:
        raise RuntimeError("adapt_to_cpu() comes after import threestudio.")
    misc, networks = (sys.modules[f"threestudio.{n}"] for n in ("utils.misc", "models.networks"))
    rebind(misc.get_device, lambda: torch.device("cpu"))
    networks.get_rank = lambda: "cpu"  # It becomes a device there, and nothing else.
    torch.cuda.device = _no_device
    _train_on_cpu()


def rebind(old: Callable, new: Callable) -> None:
    """Replace a function of threestudio's in every module of it that has imported the name."""
    for module in [m for n, m in sys.modules.items() if n.split(".")[0] == "threestudio"]:
        for name in [n for n, value in vars(module).items() if value is old]:
            setattr(module, name, new)


def _no_device(device: Any) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()


def _train_on_cpu() -> None:
    import pytorch_lightning

    threestudio = sys.modules["threestudio"]
    trainer_class = pytorch_lightning.Trainer

    class CpuTrainer(trainer_class):
        def __init__(self, **arguments: Any) -> None:
            arguments.update(accelerator="cpu", devices=1)
            if arguments.get("precision") in HALF:
                threestudio.info("threestudio-asd: no CUDA, so trainer.precision is 32.")
                arguments["precision"] = 32
            super().__init__(**arguments)

    pytorch_lightning.Trainer = CpuTrainer
