"""Single operations: the kernels against their references, and the step's evaluations."""

from collections.abc import Callable
from typing import Any

import torch

from .setup import Setup, going_on


def kernels(setup: Setup) -> None:
    """Each kernel against its torch reference; those of the rasteriser on a small picture."""
    import kernel_speed as benchmark
    import raster

    torch.manual_seed(0)
    torch.set_num_threads(1)
    device = torch.device(setup.device)
    points, rays, quads, size = (2000, 64, 5, 16) if setup.reduced else (100_000, 4096, 8, 24)
    figures: dict[str, Any] = {"points": points, "levels": 8, "rays": rays}
    figures |= {"triangles": 2 * quads**2, "pixels": size**2, "milliseconds": {}}
    groups = (
        lambda: benchmark.hash_grid(points, device),
        lambda: benchmark.rays(rays, device),
        lambda: raster.pairs(size, quads, device),
    )
    seconds = 0.01 if setup.reduced else 0.5
    for group in groups:
        for name, pair in group().items():
            with going_on(figures, name):
                ((_, found),) = benchmark.compare({name: pair}, device, seconds)
                figures["milliseconds"][name] = found
            rows = figures["milliseconds"].values()
            errors = [row["largest_relative_error"] for row in rows]
            worst = max(errors, default=None, key=lambda e: (isinstance(e, str), e))
            figures["headline"] = f"{len(errors)} kernels, largest relative error {worst}"
            setup.tell(figures)


def raster(setup: Setup) -> None:
    """The rasteriser's kernels on 20,000 triangles."""
    import raster as benchmark
    from kernel_speed import least_ms

    torch.manual_seed(0)
    torch.set_num_threads(1)
    device, size = torch.device(setup.device), 32 if setup.reduced else 512
    figures: dict[str, Any] = {"triangles": benchmark.TRIANGLES, "size": size, "milliseconds": {}}
    for name, make in {"surface": benchmark.surface, "soup": benchmark.soup}.items():
        times = figures["milliseconds"][name] = {}
        for what, run in benchmark.runs(*make(device), size).items():
            times[what] = least_ms(run, device, 0.01 if setup.reduced else 0.5)
            setup.tell(figures)
    surface = figures["milliseconds"]["surface"]["rasterize"]
    setup.tell(figures | {"headline": f"rasterize {surface} ms (surface)"})


def step(setup: Setup, dtype: str) -> None:
    """The ASD step against the official schedule of passes, at Stable Diffusion 2.1's size."""
    import asd_step
    import diffusers

    torch.set_num_threads(1)
    unet, repeats, seconds = ("least", 1, 1.0) if setup.reduced else ("sd", 31, 25.0)
    figures: dict[str, Any] = {"unet": unet, "dtype": dtype, "batch": 1}
    figures |= {"diffusers": diffusers.__version__}
    figures["cudnn_tf32"] = torch.backends.cudnn.allow_tf32
    figures["matmul_tf32"] = torch.backends.cuda.matmul.allow_tf32
    cases = asd_step.new_cases(unet, setup.device, dtype)
    figures |= asd_step.compare(cases, repeats, setup.device, seconds)
    ratios = (f"{name} {figures[name]['ratio']}x" for name in cases)
    figures["headline"] = f"{dtype}: shared step faster by " + ", ".join(ratios)
    setup.tell(figures)
    if not setup.cuda:
        setup.tell(figures | {"peak_mib": None})  # of a CPU, only the whole process's is known
        return
    figures["peak_mib"] = {}
    for name, case in cases.items():
        figures["peak_mib"][name] = {
            way: _peak_mib(getattr(case, way)) for way in ("shared", "hidden", "official")
        }
        setup.tell(figures)


def _peak_mib(run: Callable[[], None]) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)
