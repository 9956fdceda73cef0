"""``given-mesh``: a mesh from a file, whose shape stays and whose colours are learnt.

The mesh is fitted into the scene's ball; a hash grid over the scene carries the features, as in
``tetrahedra-sdf-grid``. They begin as what the material makes the mesh's own colours of.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.scene.foreign.reading import read_mesh
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.studio.models.geometry.base import BaseExplicitGeometry, features_at
from threestudio_asd.studio.models.networks import (
    default_encoding,
    default_mlp,
    get_encoding,
    get_mlp,
)
from threestudio_asd.studio.registry import register


@register("given-mesh")
class GivenMesh(BaseExplicitGeometry):
    @dataclass
    class Config(BaseExplicitGeometry.Config):
        # A GLB, OBJ or PLY file.
        mesh: str = ""
        # The file's axis that points up, y or z; null: y, but z where this project wrote the file.
        mesh_up: str | None = None
        # At most so many faces; changes the shape.
        decimate: int | None = None
        # The farthest vertex's distance from the origin; objects of the embedded world have about
        # this.
        reach: float = 0.85

        n_input_dims: int = 3
        n_feature_dims: int = 3
        pos_encoding_config: dict = field(default_factory=default_encoding)
        mlp_network_config: dict = field(default_factory=default_mlp)
        # Steps, points each and learning rate (Adam) in which the features learn the mesh's own
        # colours.
        fit_steps: int = 400
        fit_points: int = 8192
        fit_lr: float = 0.01

    cfg: Config

    def configure(self) -> None:
        """Raises UserError as :func:`read_mesh`."""
        super().configure()
        if not self.cfg.mesh:
            raise UserError("given-mesh needs a mesh: set system.geometry.mesh=path/to/mesh.glb.")
        if not 0.0 < self.cfg.reach <= self.cfg.radius:
            raise UserError(
                f"geometry.reach is {self.cfg.reach} in a scene of radius {self.cfg.radius}; give "
                "a positive number of at most that."
            )
        self.given = read_mesh(self.cfg.mesh, self.cfg.mesh_up, self.cfg.decimate)
        self._surface: Mesh | None = None
        self.encoding = get_encoding(self.cfg.n_input_dims, self.cfg.pos_encoding_config)
        self.feature_network = get_mlp(
            self.encoding.n_output_dims, self.cfg.n_feature_dims, self.cfg.mlp_network_config
        )

    def isosurface(self) -> Mesh:
        """The mesh in the scene's ball, with its texture coordinates where these are kept."""
        if self._surface is None or self._surface.v_pos.device != self.bbox.device:
            self._surface = self.given.in_ball(self.cfg.reach, self.bbox.device)
        return self._surface

    def forward(
        self, points: Float[Tensor, "*N Di"], output_normal: bool = False
    ) -> dict[str, Float[Tensor, "..."]]:
        """``features`` (*N Nf) at ``points`` in scene units."""
        if output_normal:
            raise UserError(
                "given-mesh has no normals off its surface: use nvdiff-rasterizer, which takes "
                "them from the mesh."
            )
        return {"features": features_at(self, points)}

    def export(self, points: Float[Tensor, "*N Di"], **kwargs: Any) -> dict[str, Any]:
        """``features`` at ``points``."""
        return self(points)

    def initialize_colors(self, material: Any) -> None:
        """Fit the features so that ``material`` has the mesh's own colours on its surface.

        Raises:
            UserError: The material has no albedo.
        """
        if self.cfg.weights is not None or self.cfg.fit_steps == 0:
            return
        optimizer = torch.optim.Adam(self.parameters(), lr=self.cfg.fit_lr)
        error = torch.zeros(())
        for step in range(self.cfg.fit_steps):
            points, colors = self._samples(step)
            out = material.export(points=points, **self.export(points=points))
            if "albedo" not in out:
                raise UserError(f"{type(material).__name__} has no albedo to be refined.")
            error = F.mse_loss(out["albedo"], colors)
            optimizer.zero_grad(set_to_none=True)
            error.backward()
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        log.info("The mesh's own colours are learnt to within %.3f.", error.detach().sqrt().item())

    def _samples(self, seed: int) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
        """Random places on the surface in scene units, and the mesh's colours there."""
        face, weights = self.given.random_points(self.cfg.fit_points, seed)
        mesh = self.isosurface()
        corners = mesh.v_pos[torch.from_numpy(self.given.faces[face]).to(mesh.v_pos.device)]
        share = torch.from_numpy(weights).to(corners)
        colors = torch.from_numpy(self.given.colors(face, weights)).to(corners)
        return (corners * share[..., None]).sum(1), colors
