"""Base classes of geometries: the bounding box and the extraction of a mesh."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.parallel import map_batch
from threestudio_asd.scene.isosurface import CubeSampling, Sampling
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.studio.base import BaseModule
from threestudio_asd.studio.models.ops import chunk_batch, contract_to_unisphere, cube_bbox

ISOSURFACE_METHODS = ("mt", "mc-cpu")
# Bounds the memory of one extraction pass when isosurface_chunk is 0; the result is the same.
DEFAULT_CHUNK = 2**17


class BaseGeometry(BaseModule):
    """A shape with appearance features."""

    @dataclass
    class Config(BaseModule.Config):
        pass

    cfg: Config

    @staticmethod
    def create_from(other: "BaseGeometry", cfg: Any = None, **kwargs: Any) -> "BaseGeometry":
        """A geometry of this class with the shape of ``other``."""
        raise UserError(f"This geometry cannot be created from a {type(other).__name__}.")

    def export(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Attributes at the given points, for the material's ``export``."""
        return {}


def features_at(geometry: Any, points: Float[Tensor, "*N Di"]) -> Float[Tensor, "*N Nf"]:
    """``feature_network`` of ``encoding`` of a geometry, at ``points`` in scene units."""
    unit = contract_to_unisphere(points, geometry.bbox)
    features = geometry.feature_network(geometry.encoding(unit.reshape(-1, points.shape[-1])))
    return features.view(*points.shape[:-1], geometry.cfg.n_feature_dims)


class BaseExplicitGeometry(BaseGeometry):
    """A surface in the cube of half side ``radius``."""

    @dataclass
    class Config(BaseGeometry.Config):
        radius: float = 1.0

    cfg: Config

    def configure(self) -> None:
        self.register_buffer("bbox", cube_bbox(self.cfg.radius))


class BaseImplicitGeometry(BaseGeometry):
    """A field in the cube of half side ``radius``, whose level set is the surface."""

    @dataclass
    class Config(BaseGeometry.Config):
        radius: float = 1.0
        isosurface: bool = True
        isosurface_method: str = "mt"
        isosurface_resolution: int = 128
        isosurface_threshold: float | str = 0.0
        isosurface_chunk: int = 0
        isosurface_coarse_to_fine: bool = True
        isosurface_deformable_grid: bool = False
        isosurface_remove_outliers: bool = True
        # An int counts faces; a float is a fraction of the largest component's faces.
        isosurface_outlier_n_faces_threshold: int | float = 0.01

    cfg: Config

    def configure(self) -> None:
        self.register_buffer("bbox", cube_bbox(self.cfg.radius))
        self.unbounded = False
        if self.cfg.isosurface_method not in ISOSURFACE_METHODS:
            raise UserError(
                f"geometry.isosurface_method is '{self.cfg.isosurface_method}'; "
                f"choose one of {list(ISOSURFACE_METHODS)}."
            )
        if self.cfg.isosurface_resolution < 2:
            raise UserError("geometry.isosurface_resolution must be 2 or more.")

    def forward_field(
        self, points: Float[Tensor, "*N Di"]
    ) -> tuple[Float[Tensor, "*N 1"], Float[Tensor, "*N 3"] | None]:
        """The field at ``points``, and the deformation of the grid there, if it has one."""
        raise NotImplementedError

    def forward_level(
        self, field: Float[Tensor, "*N 1"], threshold: float
    ) -> Float[Tensor, "*N 1"]:
        """A level that is zero on the surface and negative inside."""
        raise NotImplementedError

    @torch.no_grad()
    def isosurface(self) -> Mesh:
        """The surface as a mesh, in scene units.

        Raises:
            UserError: the field does not cross the threshold, or ``isosurface`` is off.
        """
        if not self.cfg.isosurface:
            raise UserError("geometry.isosurface is false; set it to true to extract a mesh.")
        if self.cfg.isosurface_method == "mt":
            log.info("isosurface_method mt: a field on a grid is meshed with marching cubes here.")
        return self.isosurface_on(CubeSampling(self.cfg.isosurface_resolution))

    @torch.no_grad()
    def isosurface_on(self, sampling: Sampling) -> Mesh:
        """:meth:`isosurface` of the field sampled otherwise; ``extras["bbox"]`` is the box."""
        mesh = self._extract(sampling, self.bbox)
        if self.cfg.isosurface_coarse_to_fine:
            low, high = mesh.v_pos.amin(dim=0), mesh.v_pos.amax(dim=0)
            margin = 0.1 * (high - low)
            tight = torch.stack([low - margin, high + margin])
            mesh = self._extract(sampling, torch.clamp(tight, self.bbox[0], self.bbox[1]))
        return mesh

    def _extract(self, sampling: Sampling, bbox: Float[Tensor, "2 3"]) -> Mesh:
        points = sampling.points(bbox)
        chunk = self.cfg.isosurface_chunk or DEFAULT_CHUNK

        def values(points: Tensor) -> Tensor:
            return chunk_batch(lambda p: self.forward_field(p)[0], chunk, points)

        field = map_batch(values, points)
        threshold = self._threshold(field)
        level = self.forward_level(field, threshold)
        if not level.min() < 0 < level.max():
            raise UserError(self._no_surface(field, threshold))
        mesh = sampling.mesh(level, bbox)
        if self.cfg.isosurface_remove_outliers:
            mesh = mesh.remove_outlier(self.cfg.isosurface_outlier_n_faces_threshold)
        return mesh

    def _threshold(self, field: Float[Tensor, "N 1"]) -> float:
        threshold = self.cfg.isosurface_threshold
        if threshold == "auto":
            filled = field[field > 1e-5]
            threshold = filled.mean().item() if len(filled) else 0.0
            log.info("Isosurface threshold, chosen automatically: %.4g", threshold)
        if isinstance(threshold, str):
            raise UserError(
                f"geometry.isosurface_threshold is '{threshold}'; give a number or \"auto\"."
            )
        return float(threshold)

    def _no_surface(self, field: Float[Tensor, "N 1"], threshold: float) -> str:
        low, high = field.min().item(), field.max().item()
        return (
            f"No surface at isosurface_threshold {threshold:.4g}: the field lies between "
            f"{low:.4g} and {high:.4g}. Set system.geometry.isosurface_threshold to a number "
            'between these, or to "auto"; if the range is that of an untrained or empty scene, '
            "train longer or lower the losses that thin it out."
        )
