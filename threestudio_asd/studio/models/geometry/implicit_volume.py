"""``implicit-volume``: a density field and a feature field on one hash grid."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.scene.normals import (
    analytic_normal,
    finite_difference_normal,
    laplacian_normal,
)
from threestudio_asd.studio.models.activations import get_activation
from threestudio_asd.studio.models.geometry.base import BaseGeometry, BaseImplicitGeometry
from threestudio_asd.studio.models.networks import (
    default_encoding,
    default_mlp,
    get_encoding,
    get_mlp,
)
from threestudio_asd.studio.models.ops import contract_to_unisphere
from threestudio_asd.studio.registry import register

NORMAL_TYPES = ("finite_difference", "finite_difference_laplacian", "pred", "analytic")


@register("implicit-volume")
class ImplicitVolume(BaseImplicitGeometry):
    @dataclass
    class Config(BaseImplicitGeometry.Config):
        n_input_dims: int = 3
        n_feature_dims: int = 3
        density_activation: str | None = "softplus"
        density_bias: float | str = "blob_magic3d"
        density_blob_scale: float = 10.0
        density_blob_std: float = 0.5
        pos_encoding_config: dict = field(default_factory=default_encoding)
        mlp_network_config: dict = field(default_factory=default_mlp)
        normal_type: str | None = "finite_difference"
        finite_difference_normal_eps: float = 0.01
        isosurface_threshold: float | str = 25.0
        anneal_density_blob_std_config: dict | None = None

    cfg: Config

    def configure(self) -> None:
        super().configure()
        self._check_config()
        self.density_activation = get_activation(self.cfg.density_activation)
        self.density_bias = make_density_bias(self.cfg)
        self.encoding = get_encoding(self.cfg.n_input_dims, self.cfg.pos_encoding_config)
        self.density_network = self._head(1)
        if self.cfg.n_feature_dims > 0:
            self.feature_network = self._head(self.cfg.n_feature_dims)
        if self.cfg.normal_type == "pred":
            self.normal_network = self._head(3)

    def _head(self, n_output_dims: int) -> torch.nn.Module:
        return get_mlp(self.encoding.n_output_dims, n_output_dims, self.cfg.mlp_network_config)

    def _check_config(self) -> None:
        if self.cfg.normal_type is not None and self.cfg.normal_type not in NORMAL_TYPES:
            raise UserError(
                f"geometry.normal_type is '{self.cfg.normal_type}'; "
                f"choose null or one of {list(NORMAL_TYPES)}."
            )
        for key in ("anneal_density_blob_std_config", "isosurface_deformable_grid"):
            if getattr(self.cfg, key):
                raise UserError(
                    f"geometry.{key} is accepted by threestudio but has no effect on an "
                    "implicit-volume; remove it."
                )

    def forward(
        self, points: Float[Tensor, "*N Di"], output_normal: bool = False
    ) -> dict[str, Float[Tensor, "..."]]:
        """``density`` (*N 1), ``features`` (*N Nf) and, on demand, unit ``normal`` and
        ``shading_normal`` (*N 3) at ``points`` in scene units.

        Raises:
            UserError: normals are asked for and ``normal_type`` is null.
        """
        if output_normal and self.cfg.normal_type == "analytic":
            return self._forward_analytic(points)
        encoding = self._encode(points)
        density = self._density(points, encoding)
        output = {"density": density, **self._features(points, encoding)}
        if output_normal:
            normal = self._normal(points, encoding, density)
            output.update(normal=normal, shading_normal=normal)
        return output

    def forward_density(self, points: Float[Tensor, "*N Di"]) -> Float[Tensor, "*N 1"]:
        """Density per scene unit at ``points``."""
        return self._density(points, self._encode(points))

    def forward_field(self, points: Float[Tensor, "*N Di"]) -> tuple[Float[Tensor, "*N 1"], None]:
        return self.forward_density(points), None

    def forward_level(
        self, field: Float[Tensor, "*N 1"], threshold: float
    ) -> Float[Tensor, "*N 1"]:
        return threshold - field

    def export(self, points: Float[Tensor, "*N Di"], **kwargs: Any) -> dict[str, Any]:
        """``features`` at ``points``; empty without features."""
        if self.cfg.n_feature_dims == 0:
            return {}
        return self._features(points, self._encode(points))

    @staticmethod
    @torch.no_grad()
    def create_from(
        other: BaseGeometry, cfg: Any = None, copy_net: bool = True, **kwargs: Any
    ) -> "ImplicitVolume":
        """A volume with the grid and density of ``other``, and with ``copy_net`` also its
        feature and normal networks where both have them."""
        if not isinstance(other, ImplicitVolume):
            raise UserError(f"implicit-volume cannot be created from a {type(other).__name__}.")
        instance = ImplicitVolume(cfg, **kwargs)
        parts = ["encoding", "density_network"]
        if copy_net and instance.cfg.n_feature_dims == other.cfg.n_feature_dims > 0:
            parts.append("feature_network")
        if copy_net and instance.cfg.normal_type == other.cfg.normal_type == "pred":
            parts.append("normal_network")
        for part in parts:
            getattr(instance, part).load_state_dict(getattr(other, part).state_dict())
        return instance

    def _encode(self, points: Float[Tensor, "*N Di"]) -> Float[Tensor, "M C"]:
        unit = contract_to_unisphere(points, self.bbox, self.unbounded)
        return self.encoding(unit.reshape(-1, points.shape[-1]))

    def _density(
        self, points: Float[Tensor, "*N Di"], encoding: Float[Tensor, "M C"]
    ) -> Float[Tensor, "*N 1"]:
        raw = self.density_network(encoding).view(*points.shape[:-1], 1)
        return self.density_activation(raw + self.density_bias(points))

    def _features(
        self, points: Float[Tensor, "*N Di"], encoding: Float[Tensor, "M C"]
    ) -> dict[str, Float[Tensor, "*N Nf"]]:
        if self.cfg.n_feature_dims == 0:
            return {}
        return {"features": self.feature_network(encoding).view(*points.shape[:-1], -1)}

    def _normal(
        self,
        points: Float[Tensor, "*N Di"],
        encoding: Float[Tensor, "M C"],
        density: Float[Tensor, "*N 1"],
    ) -> Float[Tensor, "*N 3"]:
        eps, radius = self.cfg.finite_difference_normal_eps, self.cfg.radius
        if self.cfg.normal_type == "pred":
            return F.normalize(self.normal_network(encoding).view(*points.shape[:-1], 3), dim=-1)
        if self.cfg.normal_type == "finite_difference":
            return finite_difference_normal(self.forward_density, points, density, eps, radius)
        if self.cfg.normal_type == "finite_difference_laplacian":
            return laplacian_normal(self.forward_density, points, eps, radius)
        raise UserError(
            "The material or a loss needs normals, but geometry.normal_type is null; set it to "
            f"one of {list(NORMAL_TYPES)}."
        )

    def _forward_analytic(self, points: Float[Tensor, "*N Di"]) -> dict[str, Tensor]:
        with_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            points = points if points.requires_grad else points.detach().requires_grad_()
            encoding = self._encode(points)
            density = self._density(points, encoding)
            normal = analytic_normal(density, points, create_graph=with_graph)
            output = {"density": density, **self._features(points, encoding)}
        output.update(normal=normal, shading_normal=normal)
        return output if with_graph else {k: v.detach() for k, v in output.items()}


def make_density_bias(cfg: Any) -> Callable[[Tensor], Tensor | float]:
    """The bias before the activation as a function of points (*N 3) -> (*N 1) or a number.

    ``blob_magic3d``: scale (1 - |x| / std); ``blob_dreamfusion``: scale exp(-|x|^2 / (2 std^2)).
    """
    scale, std = cfg.density_blob_scale, cfg.density_blob_std
    if cfg.density_bias == "blob_magic3d":
        return lambda x: scale * (1 - x.norm(dim=-1, keepdim=True) / std)
    if cfg.density_bias == "blob_dreamfusion":
        return lambda x: scale * torch.exp(-0.5 * (x / std).square().sum(-1, keepdim=True))
    if isinstance(cfg.density_bias, str):
        raise UserError(
            f"geometry.density_bias is '{cfg.density_bias}'; give a number, "
            "blob_magic3d or blob_dreamfusion."
        )
    constant = float(cfg.density_bias)
    return lambda x: constant
