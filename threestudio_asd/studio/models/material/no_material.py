"""``no-material``: the features, or a network of them, are the colour."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.studio.models.activations import get_activation
from threestudio_asd.studio.models.material.base import BaseMaterial
from threestudio_asd.studio.models.networks import get_mlp
from threestudio_asd.studio.registry import register


@register("no-material")
class NoMaterial(BaseMaterial):
    @dataclass
    class Config(BaseMaterial.Config):
        n_output_dims: int = 3
        color_activation: str = "sigmoid"
        # Both set: a network maps that many features to the colour.
        input_feature_dims: int | None = None
        mlp_network_config: dict | None = None
        requires_normal: bool = False

    cfg: Config

    def configure(self) -> None:
        self.requires_normal = self.cfg.requires_normal
        self.color_activation = get_activation(self.cfg.color_activation)
        self.n_feature_dims, self.network = self.cfg.n_output_dims, None
        if self.cfg.input_feature_dims is not None and self.cfg.mlp_network_config is not None:
            self.n_feature_dims = self.cfg.input_feature_dims
            self.network = get_mlp(
                self.n_feature_dims, self.cfg.n_output_dims, self.cfg.mlp_network_config
            )

    def forward(self, features: Float[Tensor, "*N Nf"], **kwargs: Any) -> Float[Tensor, "*N Nc"]:
        if features.shape[-1] != self.n_feature_dims:
            raise UserError(
                f"no-material expects {self.n_feature_dims} features, the geometry gives "
                f"{features.shape[-1]}; make geometry.n_feature_dims and the material's "
                "n_output_dims (or input_feature_dims) agree."
            )
        if self.network is not None:
            rows = features.reshape(-1, features.shape[-1])
            features = self.network(rows).view(*features.shape[:-1], -1)
        return self.color_activation(features)

    def export(self, features: Float[Tensor, "*N Nf"], **kwargs: Any) -> dict[str, Any]:
        """``albedo``: the first three channels."""
        color = self(features).clamp(0, 1)
        if color.shape[-1] < 3:
            raise UserError(f"no-material has {color.shape[-1]} channels, a mesh needs 3.")
        return {"albedo": color[..., :3]}
