"""``tetrahedra-sdf-grid``: DMTet (arXiv:2111.04276), a surface on a deformable grid.

Its vertices carry a signed distance and an offset; a hash grid over the whole scene carries the
features.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.scene.isosurface import TetrahedralSampling, scale_to
from threestudio_asd.scene.marching_tetrahedra import marching_tetrahedra, tetrahedral_grid
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.studio.models.geometry.base import (
    BaseExplicitGeometry,
    BaseGeometry,
    features_at,
)
from threestudio_asd.studio.models.geometry.implicit_volume import ImplicitVolume
from threestudio_asd.studio.models.geometry.tetrahedra_shapes import initial_distance
from threestudio_asd.studio.models.networks import (
    default_encoding,
    default_mlp,
    get_encoding,
    get_mlp,
)
from threestudio_asd.studio.registry import register


@register("tetrahedra-sdf-grid")
class TetrahedraSDFGrid(BaseExplicitGeometry):
    @dataclass
    class Config(BaseExplicitGeometry.Config):
        # Edges of the grid are about 2 / resolution of the box that it fills.
        isosurface_resolution: int = 128
        isosurface_deformable_grid: bool = True
        # While the mesh carries gradients its small components stay.
        isosurface_remove_outliers: bool = False
        isosurface_outlier_n_faces_threshold: int | float = 0.01

        n_input_dims: int = 3
        n_feature_dims: int = 3
        pos_encoding_config: dict = field(default_factory=default_encoding)
        mlp_network_config: dict = field(default_factory=default_mlp)
        # sphere (parameter: radius), ellipsoid (three half axes) or mesh:<path> (half size).
        shape_init: str | None = None
        shape_init_params: Any | None = None
        shape_init_mesh_up: str = "+z"
        shape_init_mesh_front: str = "+x"
        # Initialise even a geometry that is given weights.
        force_shape_init: bool = False
        geometry_only: bool = False
        fix_geometry: bool = False

    cfg: Config

    def configure(self) -> None:
        super().configure()
        if self.cfg.isosurface_resolution < 2:
            raise UserError("geometry.isosurface_resolution must be 2 or more.")
        self.register_buffer("isosurface_bbox", self.bbox.clone())
        grid = tetrahedral_grid(self.cfg.isosurface_resolution)
        self.register_buffer("grid_vertices", grid.vertices, persistent=False)
        self.register_buffer("tetrahedra", grid.tetrahedra, persistent=False)
        deformation = None
        if self.cfg.isosurface_deformable_grid:
            deformation = torch.zeros_like(grid.vertices)
        self._register("sdf", torch.zeros(len(grid.vertices), 1))
        self._register("deformation", deformation)
        if not self.cfg.geometry_only:
            self.encoding = get_encoding(self.cfg.n_input_dims, self.cfg.pos_encoding_config)
            self.feature_network = get_mlp(
                self.encoding.n_output_dims, self.cfg.n_feature_dims, self.cfg.mlp_network_config
            )
        self._fixed_mesh: Mesh | None = None
        self.register_load_state_dict_post_hook(lambda module, keys: module._forget_mesh())

    def _register(self, name: str, value: Tensor | None) -> None:
        """A parameter, or with ``fix_geometry`` a constant."""
        if self.cfg.fix_geometry:
            self.register_buffer(name, value)
        else:
            self.register_parameter(name, None if value is None else nn.Parameter(value))

    def _forget_mesh(self) -> None:
        self._fixed_mesh = None

    @torch.no_grad()
    def initialize_shape(self) -> None:
        """Set the signed distance to the shape ``shape_init``, if there is one.

        Raises:
            UserError: an unknown shape, or parameters that do not suit it.
        """
        if self.cfg.shape_init is None and not self.cfg.force_shape_init:
            return
        if self.cfg.weights is not None and not self.cfg.force_shape_init:
            return
        points = scale_to(self.grid_vertices, self.isosurface_bbox)
        self.sdf.data = initial_distance(self.cfg, points)
        self._forget_mesh()

    def isosurface(self) -> Mesh:
        """The surface in scene units; gradients reach ``sdf`` and ``deformation``.

        Raises:
            UserError: the signed distance has one sign everywhere.
        """
        if self._fixed_mesh is not None:
            return self._fixed_mesh
        unit = self.grid_vertices
        if self.deformation is not None:
            # Less than half an edge: tetrahedra hardly ever turn inside out.
            unit = unit + torch.tanh(self.deformation) / self.cfg.isosurface_resolution
        vertices, faces = marching_tetrahedra(unit, self.sdf[:, 0], self.tetrahedra)
        # Tetrahedra connect the whole grid: with both signs in it, one has a triangle.
        if len(faces) == 0:
            raise UserError(self._no_surface())
        mesh = Mesh(
            scale_to(vertices, self.isosurface_bbox),
            faces,
            grid_vertices=unit,
            grid_level=self.sdf,
            grid_deformation=self.deformation,
            bbox=self.isosurface_bbox,
        )
        if self.cfg.isosurface_remove_outliers:
            mesh = mesh.remove_outlier(self.cfg.isosurface_outlier_n_faces_threshold)
        if self.cfg.fix_geometry:
            self._fixed_mesh = mesh
        return mesh

    def _no_surface(self) -> str:
        if not self.sdf.any():
            return (
                "tetrahedra-sdf-grid has no shape yet: start from an earlier stage with "
                "system.geometry_convert_from=path/to/last.ckpt, or set geometry.shape_init."
            )
        where = "outside" if self.sdf.max() > 0 else "inside"
        return (
            f"The surface of tetrahedra-sdf-grid has vanished: all of its box is {where}. Lower "
            "the learning rate of geometry.sdf or the weights of the mesh's losses."
        )

    def forward(
        self, points: Float[Tensor, "*N Di"], output_normal: bool = False
    ) -> dict[str, Float[Tensor, "..."]]:
        """``features`` (*N Nf) at ``points`` in scene units; empty with ``geometry_only``."""
        if self.cfg.geometry_only:
            return {}
        if output_normal:
            raise UserError(
                "tetrahedra-sdf-grid has no normals off its surface: use nvdiff-rasterizer, "
                "which takes them from the mesh."
            )
        return {"features": features_at(self, points)}

    def export(self, points: Float[Tensor, "*N Di"], **kwargs: Any) -> dict[str, Any]:
        """``features`` at ``points``; empty without features."""
        return {} if self.cfg.n_feature_dims == 0 else self(points)

    @staticmethod
    @torch.no_grad()
    def create_from(
        other: BaseGeometry, cfg: Any = None, copy_net: bool = True, **kwargs: Any
    ) -> "TetrahedraSDFGrid":
        """The surface of a volume or of another grid, with ``copy_net`` also its features.

        A volume is sampled in the tight box of its surface at its own threshold; its level,
        clamped to [-1, 1], becomes the signed distance.

        Raises:
            UserError: another kind of geometry, another resolution than the other grid's, no
                surface at the volume's threshold, or features that do not fit.
        """
        if not isinstance(other, TetrahedraSDFGrid | ImplicitVolume):
            raise UserError(f"tetrahedra-sdf-grid cannot be created from a {type(other).__name__}.")
        instance = TetrahedraSDFGrid(cfg, **kwargs).to(other.bbox.device)
        if isinstance(other, TetrahedraSDFGrid):
            instance._take_grid(other)
        else:
            mesh = other.isosurface_on(TetrahedralSampling(instance.cfg.isosurface_resolution))
            instance.isosurface_bbox = mesh.extras["bbox"].clone()
            instance.sdf.data = mesh.extras["grid_level"].clamp(-1, 1)
        if copy_net and not instance.cfg.geometry_only:
            instance._take_features(other)
        return instance

    def _take_grid(self, other: "TetrahedraSDFGrid") -> None:
        if self.cfg.isosurface_resolution != other.cfg.isosurface_resolution:
            raise UserError(
                f"geometry.isosurface_resolution is {self.cfg.isosurface_resolution}, but the "
                f"grid to start from has {other.cfg.isosurface_resolution}; make them equal."
            )
        self.isosurface_bbox = other.isosurface_bbox.clone()
        self.sdf.data = other.sdf.data.clone()
        if self.deformation is not None and other.deformation is not None:
            self.deformation.data = other.deformation.data.clone()
        elif other.deformation is not None:
            log.warn("isosurface_deformable_grid is false: the earlier grid's offsets are lost.")

    def _take_features(self, other: BaseGeometry) -> None:
        if getattr(other.cfg, "geometry_only", False) or other.cfg.n_feature_dims == 0:
            log.warn("The geometry to start from has no features: these start anew.")
            return
        if not torch.equal(self.bbox, other.bbox.to(self.bbox)):
            raise UserError(
                f"geometry.radius is {self.cfg.radius}, but features of radius "
                f"{other.cfg.radius} are to be inherited: make them equal, or set "
                "system.geometry_convert_inherit_texture=false."
            )
        try:
            self.encoding.load_state_dict(other.encoding.state_dict())
            self.feature_network.load_state_dict(other.feature_network.state_dict())
        except RuntimeError as error:
            raise UserError(
                "The features to be inherited have another shape: give the geometry the same "
                "pos_encoding_config, mlp_network_config and n_feature_dims, or set "
                "system.geometry_convert_inherit_texture=false."
            ) from error
