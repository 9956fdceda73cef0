"""The rasteriser on 20,000 triangles at 512 x 512 pixels, in one run on one machine.

    python benchmarks/raster.py [--threads 1] [--device cpu] [--size 512] [--save NAME]

Two pictures: a closed surface as DMTet makes them, and a soup of overlapping triangles. Every time
is the least of several runs, in milliseconds (CPU time with one CPU thread, else wall time);
--save writes benchmarks/results/raster-NAME.json.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial

import torch
from kernel_speed import Pair, least_ms
from report import describe, write
from torch import Tensor

from threestudio_asd.kernels.antialias import antialias, antialias_reference, edge_links
from threestudio_asd.kernels.interpolate import interpolate, interpolate_reference
from threestudio_asd.kernels.rasterize import rasterize, rasterize_reference

TRIANGLES = 20_000


def surface(device: torch.device, quads: int = 100) -> tuple[Tensor, Tensor]:
    """A bumpy torus of quads x quads that fills the picture: pos (1, Nv, 4), tri."""
    turn = torch.arange(quads) / quads * 2 * math.pi
    u, v = torch.meshgrid(turn, turn, indexing="ij")
    tube = 0.3 + 0.05 * torch.sin(7 * u) * torch.cos(5 * v)
    x, y = (0.6 + tube * v.cos()) * u.cos(), (0.6 + tube * v.cos()) * u.sin()
    depth = 2 - tube * v.sin()
    clip = torch.stack([1.8 * x, 1.8 * y, 1.2 * depth - 1.1, depth], dim=-1)
    index = torch.arange(quads**2).view(quads, quads)
    a, b, c, d = index, index.roll(-1, 0), index.roll(-1, 1), index.roll((-1, -1), (0, 1))
    tri = torch.cat([torch.stack([a, b, d], dim=-1), torch.stack([a, d, c], dim=-1)])
    return clip.view(1, -1, 4).to(device), tri.view(-1, 3).int().to(device)


def soup(device: torch.device) -> tuple[Tensor, Tensor]:
    """Triangles of some 30 pixels anywhere, at any depth: pos (1, Nv, 4), tri."""
    w = 1 + torch.rand(TRIANGLES, 3, 1)
    xy = 2 * torch.rand(TRIANGLES, 1, 2) - 1 + 0.05 * torch.randn(TRIANGLES, 3, 2)
    clip = torch.cat([xy * w, (2 * torch.rand_like(w) - 1) * w, w], dim=-1)
    tri = torch.arange(3 * TRIANGLES).view(-1, 3).int()
    return clip.view(1, -1, 4).to(device), tri.to(device)


def runs(pos: Tensor, tri: Tensor, size: int) -> dict[str, Callable[[], object]]:
    """What is measured on one picture."""
    pos = pos.requires_grad_()
    attr = torch.rand(1, pos.shape[1], 3, device=pos.device, requires_grad=True)
    rast, _ = rasterize(pos, tri, (size, size))
    image, _ = interpolate(attr, rast, tri)
    color, links = image.detach().requires_grad_(), edge_links(tri)
    smooth = antialias(color, rast, pos, tri, links)
    g = torch.randn_like(image)

    def back(output: Tensor, *inputs: Tensor) -> Callable[[], object]:
        up = g if output.shape == g.shape else rast.detach()
        return lambda: torch.autograd.grad(output, inputs, up, retain_graph=True)

    return {
        "rasterize": lambda: rasterize(pos, tri, (size, size)),
        "rasterize backward": back(rast, pos),
        "interpolate": lambda: interpolate(attr, rast, tri),
        "interpolate backward": back(image, attr, rast),
        "edge links": lambda: edge_links(tri),
        "antialias": lambda: antialias(color, rast, pos, tri, links),
        "antialias backward": back(smooth, color, pos),
    }


def pairs(size: int, quads: int, device: torch.device) -> dict[str, Pair]:
    """Each kernel, forward and backward, and its reference on one picture of a torus.

    The references look at every pair of a pixel and a triangle: ``size`` is in the tens.
    """
    pos, tri = surface(device, quads)
    pos, attr = pos.requires_grad_(), torch.rand(1, pos.shape[1], 3, device=device)
    attr, rast = attr.requires_grad_(), rasterize(pos, tri, (size, size))[0].detach()
    color, links = interpolate(attr, rast, tri)[0].detach().requires_grad_(), edge_links(tri)
    up = torch.randn(1, size, size, 3, device=device)

    def backward(run: Callable[[], tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        output = run()[0]
        return torch.autograd.grad(output, inputs, up[..., : output.shape[-1]])

    rows: dict[str, tuple[Pair, tuple[Tensor, ...]]] = {
        "rasterize": (
            (
                lambda: (rasterize(pos, tri, (size, size))[0][..., :2],),
                lambda: (rasterize_reference(pos, tri, (size, size))[0][..., :2],),
            ),
            (pos,),
        ),
        "interpolate": (
            (
                lambda: (interpolate(attr, rast, tri)[0],),
                lambda: (interpolate_reference(attr, rast, tri),),
            ),
            (attr,),
        ),
        "antialias": (
            (
                lambda: (antialias(color, rast, pos, tri, links),),
                lambda: (antialias_reference(color, rast, pos, tri),),
            ),
            (color, pos),
        ),
    }
    forward = {name: pair for name, (pair, _) in rows.items()}
    return forward | {
        f"{name} forward + backward": tuple(partial(backward, run, *inputs) for run in pair)
        for name, (pair, inputs) in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=512, help="pixels along each side")
    parser.add_argument("--seconds", type=float, default=1.0, help="spent on each measurement")
    parser.add_argument("--save", help="short name of the hardware")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    report = {
        **describe(device),
        "triangles": TRIANGLES,
        "size": args.size,
        "milliseconds": {},
    }
    for name, make in {"surface": surface, "soup": soup}.items():
        pos, tri = make(device)
        report["milliseconds"][name] = times = {
            what: least_ms(run, device, args.seconds)
            for what, run in runs(pos, tri, args.size).items()
        }
        for what, ms in times.items():
            print(f"{name:8s} {what:22s} {ms:9.3f} ms")
    if args.save:
        write(f"raster-{args.save}", report)


if __name__ == "__main__":
    main()
