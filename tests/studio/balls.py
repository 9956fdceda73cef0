"""Balls of density, how they are exported, and meshes that are read back."""

import numpy as np
import torch
import trimesh

from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.studio import registry
from threestudio_asd.studio.models.background.solid_color import SolidColorBackground
from threestudio_asd.studio.models.geometry.base import BaseImplicitGeometry
from threestudio_asd.studio.models.material.no_material import NoMaterial

BBOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def ball_density(points, radius=0.5, center=(0.0, 0.0, 0.0)):
    """100 inside, falling to 0 outside; 50 on the surface."""
    distance = (points - torch.tensor(center)).norm(dim=-1, keepdim=True)
    return 100 * torch.sigmoid(40 * (radius - distance))


class Ball(BaseImplicitGeometry):
    """A ball of density whose features colour it by height."""

    radii = ((0.5, (0.0, 0.0, 0.0)),)

    def forward_field(self, points):
        return sum(ball_density(points, r, c) for r, c in self.radii), None

    def forward_level(self, field, threshold):
        return threshold - field

    def export(self, points, **kwargs):
        red = torch.full_like(points[..., :1], 3.0)
        return {"features": torch.cat([red, torch.zeros_like(red), points[..., 2:]], dim=-1)}


def ball(**cfg) -> Ball:
    cfg = {"isosurface_threshold": 50.0, "isosurface_resolution": 48, **cfg}
    return Ball({"isosurface_method": "mc-cpu", **cfg})


def exporter(geometry, name="mesh-exporter", **cfg):
    if name == "mesh-exporter":
        cfg = {"save_preview": False, **cfg}
    return registry.find(name)(
        cfg, geometry=geometry, material=NoMaterial(), background=SolidColorBackground()
    )


def load(path) -> trimesh.Trimesh:
    """The mesh of a file."""
    loaded = trimesh.load(path, process=False)
    if isinstance(loaded, trimesh.Trimesh):
        return loaded
    # Not to_geometry(), which forgets the vertex colours of a mesh with a material.
    (mesh,) = loaded.geometry.values()
    return mesh


def from_trimesh(mesh) -> Mesh:
    return Mesh(torch.tensor(np.array(mesh.vertices)).float(), torch.tensor(np.array(mesh.faces)))
