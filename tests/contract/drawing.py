"""Facts about the rasteriser: pictures of an uneven pyramid, and their gradients.

threestudio draws on this project's stand-in for nvdiffrast, whose own numbers are tested elsewhere;
what is compared is the cameras, normals, colours and what is done with them.
"""

from typing import Any

import torch
from contract.cameras import FIXED, train_batch
from contract.hosts import Host
from contract.rendering import fill, make, numbers
from omegaconf import OmegaConf
from torch import Tensor, nn

CORNERS = [[0.6, 0.0, -0.3], [0.0, 0.7, -0.2], [-0.5, 0, -0.3], [0, -0.6, -0.2], [0.1, 0, 0.5]]
FACES = [[i, (i + 1) % 4, 4] for i in range(4)] + [[0, 2, 1], [0, 3, 2]]
SIZE = {"height": 8, "width": 10}
MATERIALS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("no-material", {}),
    "lit": ("diffuse-with-point-light-material", {"diffuse_prob": 1.0, "textureless_prob": 0.0}),
}


def _pyramid(host: Host, v_pos: Tensor) -> nn.Module:
    grid = {"isosurface_resolution": 30, "geometry_only": True, "shape_init": "sphere"}
    sphere = make(host, "tetrahedra-sdf-grid", {**grid, "shape_init_params": 0.5})
    sphere.initialize_shape()
    mesh_class = type(sphere.isosurface())

    class Pyramid(host.implicit_geometry):
        def isosurface(self) -> Any:
            return mesh_class(v_pos, torch.tensor(FACES))

        def forward(self, points: Tensor, output_normal: bool = False) -> dict[str, Tensor]:
            return {"features": 3 * points}

    return Pyramid(OmegaConf.create({}))


def drawings(host: Host) -> dict[str, Any]:
    """After :mod:`contract.tetrahedra`, which leaves threestudio a file of the grid."""
    batch = train_batch(host, {**FIXED, **SIZE, "batch_size": 2}, 1)
    facts = {}
    for name, (material, cfg) in MATERIALS.items():
        v_pos = torch.tensor(CORNERS, requires_grad=True)
        renderer = make(
            host,
            "nvdiff-rasterizer",
            {},
            geometry=_pyramid(host, v_pos),
            material=make(host, material, cfg),
            background=fill(make(host, "neural-environment-map-background", {})),
        )
        out = renderer(**batch)
        images = {key: value for key, value in out.items() if isinstance(value, Tensor)}
        facts[name] = {"images": numbers(images), "others": sorted(set(out) - set(images))}
        facts[name]["gradients"] = {
            key: numbers(torch.autograd.grad(image.square().sum(), v_pos, retain_graph=True)[0])
            for key, image in images.items()
            if key != "comp_rgb_bg"
        }
        facts[name]["without-colours"] = sorted(renderer(**batch, render_rgb=False))
    return facts
