"""Put stand-ins where threestudio's compiled extensions are missing or unusable."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

FOLDER = Path(__file__).parent / "standins"

#: Imported by threestudio for parts that have nothing to do with this project.
PLACEHOLDERS = ("wandb", "IPython", "torchvision", "controlnet_aux")


def install(device: torch.device | str | None = None, quiet: bool = False) -> list[str]:
    """Make ``import threestudio`` possible: stand in for what cannot be used here.

    ``tinycudann``, ``nerfacc`` and ``nvdiffrast`` are replaced where they are missing or where one
    tiny call fails on ``device``; ``PLACEHOLDERS`` where they are missing. All but ``torchvision``
    are folders at the front of ``sys.path``, which processes that Python spawns inherit. The log
    names what was replaced, once; ``quiet`` keeps it from doing so.

    Args:
        device: where the extensions are to run; CUDA if there is one, else the CPU.

    Returns:
        The names that are replaced, from earlier calls too.
    """
    reasons = {name: reason for name, reason in unusable(device).items() if name not in replaced()}
    for name in reasons:
        _replace(name)
    if not quiet:
        _say(reasons)
    return replaced()


def unusable(device: torch.device | str | None = None) -> dict[str, str]:
    """Name -> why the real library cannot be used on ``device``; without those that can be.

    A library that a stand-in replaces already says so.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    reasons = {name: _why(name, device) for name in (*PROBES, *PLACEHOLDERS)}
    return {name: reason for name, reason in reasons.items() if reason}


def replaced() -> list[str]:
    """Names that a stand-in or a placeholder answers in this process."""
    return [name for name in (*PROBES, *PLACEHOLDERS) if _is_replaced(name)]


def _is_replaced(name: str) -> bool:
    folder = str(FOLDER / name)
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return folder in sys.path or file.startswith(folder)


def _why(name: str, device: torch.device) -> str:
    if _is_replaced(name):
        return "a stand-in is installed"
    if importlib.util.find_spec(name) is None:
        return "not installed"
    if name in PLACEHOLDERS:
        return ""
    try:
        PROBES[name](importlib.import_module(name), device)
    except Exception as error:  # Whatever a foreign extension raises, it is of no use here.
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}"
    return ""


def _replace(name: str) -> None:
    for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        del sys.modules[module]
    if name == "torchvision":
        _import_torchvision()
    else:
        sys.path.insert(0, str(FOLDER / name))
        importlib.invalidate_caches()


def _import_torchvision() -> None:
    """Import the placeholder without leaving it on the path.

    torchmetrics and transformers use torchvision wherever they find its folder; here they look
    before there is one.
    """
    import torchmetrics  # noqa: F401
    from transformers.utils import import_utils

    import_utils.is_torchvision_available()
    folder = str(FOLDER / "torchvision")
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
