"""Put stand-ins where threestudio's compiled extensions are missing or unusable."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

FOLDER = Path(__file__).parent / "standins"

_replaced: set[str] = set()


def install(device: torch.device | str | None = None) -> list[str]:
    """Make ``import threestudio`` possible: stand in for what cannot be used here.

    ``tinycudann``, ``nerfacc`` and ``nvdiffrast`` are replaced where they are missing or where one
    tiny call fails on ``device``; ``wandb``, ``IPython``, ``torchvision`` and ``controlnet_aux``,
    which threestudio imports for parts that have nothing to do with this project, by placeholders
    where they are missing. A stand-in is a folder at the front of ``sys.path``, so that spawned
    processes find it too. The log names what was replaced, once.

    Args:
        device: where the extensions are to run; CUDA if there is one, else the CPU.

    Returns:
        The names that are replaced, from earlier calls too.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    reasons = {}
    for name, probe in PROBES.items():
        if name not in replaced() and (reason := _unusable(name, probe, torch.device(device))):
            reasons[name] = reason
    for name in PLACEHOLDERS:
        if name not in replaced() and importlib.util.find_spec(name) is None:
            reasons[name] = "not installed"
    for name in reasons:
        _replace(name)
    if reasons:
        _say(reasons)
    return replaced()


def replaced() -> list[str]:
    """Names that a stand-in or a placeholder answers in this process."""
    return [name for name in (*PROBES, *PLACEHOLDERS) if name in _replaced]


def _unusable(
    name: str, probe: Callable[[ModuleType, torch.device], None], device: torch.device
) -> str:
    """Why the real library cannot be used on the device; empty if it can."""
    if importlib.util.find_spec(name) is None:
        return "not installed"
    try:
        probe(importlib.import_module(name), device)
    except Exception as error:  # Whatever a foreign extension raises, it is of no use here.
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}"
    return ""


def _replace(name: str) -> None:
    for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        del sys.modules[module]
    sys.path.insert(0, str(FOLDER / name))
    importlib.invalidate_caches()
    if name == "torchvision":
        _hide_torchvision()
    _replaced.add(name)


def _hide_torchvision() -> None:
    """Leave the placeholder to threestudio alone.

    torchmetrics and transformers use torchvision wherever they find its folder, so it is taken off
    the path again, and they look for it before it is in ``sys.modules``.
    """
    folder = sys.path.pop(0)
    import torchmetrics  # noqa: F401
    from transformers.utils import import_utils

    import_utils.is_torchvision_available()
    sys.path.insert(0, folder)
    importlib.import_module("torchvision.transforms.functional")
    sys.path.remove(folder)


def _say(reasons: dict[str, str]) -> None:
    from pytorch_lightning.utilities.rank_zero import rank_zero_info

    for name, reason in reasons.items():
        kind = "stand-in" if name in PROBES else "placeholder"
        rank_zero_info(f"threestudio-asd: {kind} for {name} ({reason})")


def _probe_tinycudann(tcnn: ModuleType, device: torch.device) -> None:
    config = {"otype": "HashGrid", "n_levels": 1, "log2_hashmap_size": 3, "base_resolution": 2}
    encoding = tcnn.Encoding(3, config, dtype=torch.float32).to(device)
    encoding(torch.rand(1, 3, device=device)).sum().backward()


def _probe_nerfacc(nerfacc: ModuleType, device: torch.device) -> None:
    grid = nerfacc.OccGridEstimator([-1.0, -1, -1, 1, 1, 1], resolution=2).to(device)
    grid.binaries.fill_(True)
    ray = torch.tensor([[0.0, 0, -2], [0, 0, 1]], device=device)
    rays, starts, ends = grid.sampling(ray[:1], ray[1:], render_step_size=0.5)
    nerfacc.render_weight_from_density(
        starts, ends, torch.ones_like(starts), ray_indices=rays, n_rays=1
    )


def _probe_nvdiffrast(nvdiffrast: ModuleType, device: torch.device) -> None:
    if device.type != "cuda":
        raise RuntimeError("it runs on CUDA only")
    importlib.import_module("nvdiffrast.torch").RasterizeCudaContext(device=device)


PROBES = {
    "tinycudann": _probe_tinycudann,
    "nerfacc": _probe_nerfacc,
    "nvdiffrast": _probe_nvdiffrast,
}
PLACEHOLDERS = ("wandb", "IPython", "torchvision", "controlnet_aux")
