"""Kernels against their plain-torch references, in one run on one machine.

    python benchmarks/kernel_speed.py [--threads 1] [--device cpu] [--points 100000] [--save NAME]

Every time is the least of several runs, in milliseconds (CPU time with one CPU thread, else wall
time); --save writes benchmarks/results/kernels-NAME.json.

(Not called kernels.py: transformers imports a package of that name if it finds one.)
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from report import alone, describe, write
from torch import Tensor

from threestudio_asd.kernels.hashgrid import HashGrid, hashgrid_reference
from threestudio_asd.kernels.march import march, march_reference
from threestudio_asd.kernels.occgrid import OccGridEstimator
from threestudio_asd.kernels.volrend import (
    exclusive_sum,
    exclusive_sum_reference,
    pack_info,
)

#: A kernel and its reference: what each call returns is the same, but for rounding.
Pair = tuple[Callable[[], tuple[Tensor, ...]], Callable[[], tuple[Tensor, ...]]]


def least_ms(run: Callable[[], object], device: torch.device, seconds: float = 2.0) -> float:
    """Least time of ``run`` within about ``seconds``, after one warm-up.

    With one CPU thread this is CPU time, otherwise wall time.
    """
    clock = time.process_time if alone(device) else time.perf_counter
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < seconds or best == float("inf"):
        begin = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, clock() - begin)
    return round(1e3 * best, 3)


def ray_points(n: int, device: torch.device) -> Tensor:
    """Points in the unit cube, 50 to a ray, as a renderer asks for them."""
    n_rays = max(1, n // 50)
    target = 0.5 + 0.2 * torch.randn(n_rays, 1, 3)
    t = torch.linspace(-0.5, 0.5, 50)[None, :, None]
    direction = torch.nn.functional.normalize(torch.randn(n_rays, 1, 3), dim=-1)
    return (target + t * direction).clamp(0, 1).view(-1, 3)[:n].contiguous().to(device)


def relative_error(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float | str:
    """The largest difference of any tensor over its largest entry; or which sizes differ."""
    errors = [0.0]
    for ours, theirs in zip(found, expected, strict=True):
        if ours.shape != theirs.shape:
            return f"sizes {tuple(ours.shape)} and {tuple(theirs.shape)}"
        if theirs.numel():
            ours, theirs = ours.detach().double(), theirs.detach().double()
            size = theirs.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
            errors.append(float((ours - theirs).abs().max() / size))
    return float(f"{max(errors):.2e}")


def compare(
    pairs: dict[str, Pair], device: torch.device, seconds: float = 2.0
) -> Iterator[tuple[str, dict[str, float | str]]]:
    """Name, and least milliseconds of both, their ratio, and the largest relative error."""
    for name, (kernel, reference) in pairs.items():
        error = relative_error(kernel(), reference())
        ours, theirs = (least_ms(run, device, seconds) for run in (kernel, reference))
        ratio = round(theirs / ours, 1) if ours else None
        figures = {"kernel": ours, "torch": theirs, "ratio": ratio, "largest_relative_error": error}
        yield name, figures


def hash_grid(n: int, device: torch.device) -> dict[str, Pair]:
    grid = HashGrid(n_levels=8).to(device)
    x, upstream = ray_points(n, device), torch.randn(n, grid.n_output_dims, device=device)

    def kernel(points: Tensor) -> Tensor:
        return grid(points)

    def reference(points: Tensor) -> Tensor:
        return hashgrid_reference(points, grid.params, grid.spec)

    def normals_step(encode: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        points = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(encode(points).sum(), points, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), grid.params)

    def forward(encode: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (encode(x),)

    def training_step(encode: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(encode(x), grid.params, upstream)

    runs = {
        "hash grid forward": forward,
        "hash grid forward + backward": training_step,
        "hash grid through normals": normals_step,
    }
    return {name: (partial(run, kernel), partial(run, reference)) for name, run in runs.items()}


def rays(n_rays: int, device: torch.device) -> dict[str, Pair]:
    grid = OccGridEstimator([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]).to(device)
    cells = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 3, indexing="ij"), -1)
    grid.binaries.copy_(cells.norm(dim=-1)[None] < 0.6)
    o = torch.nn.functional.normalize(torch.randn(n_rays, 3), dim=-1).to(device) * 2
    d = torch.nn.functional.normalize(-o + 0.4 * torch.randn_like(o), dim=-1)
    args = (o, d, grid.aabbs, grid.binaries, o.new_zeros(n_rays), o.new_full((n_rays,), 10.0))
    step = 1.732 * 2 / 128
    indices, starts, _ = march(*args, step)
    values, packs = torch.rand_like(starts), pack_info(indices, n_rays)
    print(f"{n_rays} rays, {len(starts)} samples")
    return {
        "march": (lambda: march(*args, step), lambda: march_reference(*args, step)),
        "exclusive sum": (
            lambda: (exclusive_sum(values, packs),),
            lambda: (exclusive_sum_reference(values, packs),),
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--rays", type=int, default=4096)
    parser.add_argument("--save", help="short name of the hardware")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    report = {
        **describe(device),
        "points": args.points,
        "levels": 8,
        "rays": args.rays,
        "milliseconds": {},
    }
    pairs = hash_grid(args.points, device) | rays(args.rays, device)
    for name, found in compare(pairs, device):
        report["milliseconds"][name] = found
        print(
            f"{name:32s} kernel {found['kernel']:9.3f} ms   torch {found['torch']:9.3f} ms   "
            f"{found['ratio']:7.1f}x   error {found['largest_relative_error']}"
        )
    if args.save:
        write(f"kernels-{args.save}", report)


if __name__ == "__main__":
    main()
