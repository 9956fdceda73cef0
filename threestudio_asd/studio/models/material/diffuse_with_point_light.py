"""``diffuse-with-point-light-material``: Lambertian shading under a point light (DreamFusion)."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.studio.models.activations import get_activation
from threestudio_asd.studio.models.material.base import BaseMaterial
from threestudio_asd.studio.registry import register


@register("diffuse-with-point-light-material")
class DiffuseWithPointLightMaterial(BaseMaterial):
    @dataclass
    class Config(BaseMaterial.Config):
        ambient_light_color: tuple[float, float, float] = (0.1, 0.1, 0.1)
        diffuse_light_color: tuple[float, float, float] = (0.9, 0.9, 0.9)
        # Plain albedo until this step.
        ambient_only_steps: int = 1000
        # Of the training batches, this part is shaded; of these, this part without albedo.
        diffuse_prob: float = 0.75
        textureless_prob: float = 0.5
        albedo_activation: str = "sigmoid"
        # In training, a random split between ambient and diffuse light.
        soft_shading: bool = False
        # Plain albedo outside training.
        ambient_only_on_test: bool = False

    cfg: Config
    requires_normal = True

    def configure(self) -> None:
        self.register_buffer("ambient_light_color", torch.tensor([*self.cfg.ambient_light_color]))
        self.register_buffer("diffuse_light_color", torch.tensor([*self.cfg.diffuse_light_color]))
        self.albedo_activation = get_activation(self.cfg.albedo_activation)
        self.ambient_only = False

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.ambient_only = global_step < self.cfg.ambient_only_steps

    def forward(
        self,
        features: Float[Tensor, "*N Nf"],
        positions: Float[Tensor, "*N 3"],
        shading_normal: Float[Tensor, "*N 3"],
        light_positions: Float[Tensor, "*N 3"],
        ambient_ratio: float | None = None,
        shading: str | None = None,
        **kwargs: Any,
    ) -> Float[Tensor, "*N 3"]:
        """Colour in [0, 1] under the light.

        Args:
            ambient_ratio: white light, of which this part is ambient and the rest diffuse.
            shading: "albedo", "textureless" or "diffuse"; chosen as the config says by default.
        """
        if shading is None:
            drawn = self.draw()
            shading = drawn["shading"]
            ambient_ratio = drawn.get("ambient_ratio") if ambient_ratio is None else ambient_ratio
        if shading not in ("albedo", "textureless", "diffuse"):
            raise UserError(f"shading is '{shading}'; use albedo, textureless or diffuse.")
        albedo = self.albedo_activation(features[..., :3])
        if shading == "albedo":
            return albedo
        ambient, diffuse = self._light_colors(ambient_ratio)
        to_light = F.normalize(light_positions - positions, dim=-1)
        cosine = (shading_normal * to_light).sum(-1, keepdim=True).clamp(min=0)
        light = cosine * diffuse + ambient
        return light if shading == "textureless" else albedo.clamp(0, 1) * light

    def export(self, features: Float[Tensor, "*N Nf"], **kwargs: Any) -> dict[str, Any]:
        """``albedo`` alone: light is not baked in."""
        return {"albedo": self.albedo_activation(features[..., :3]).clamp(0, 1)}

    def draw(self) -> dict[str, Any]:
        """``shading`` and, with ``soft_shading``, ``ambient_ratio`` of a batch."""
        shading = self._choose_shading()
        if shading == "albedo" or not (self.training and self.cfg.soft_shading):
            return {"shading": shading}
        return {"shading": shading, "ambient_ratio": 1 - torch.rand(()).item()}

    def _choose_shading(self) -> str:
        if not self.training:
            return "albedo" if self.ambient_only or self.cfg.ambient_only_on_test else "diffuse"
        if self.ambient_only or torch.rand(()) >= self.cfg.diffuse_prob:
            return "albedo"
        return "textureless" if torch.rand(()) < self.cfg.textureless_prob else "diffuse"

    def _light_colors(self, ambient_ratio: float | None) -> tuple[Tensor | float, Tensor | float]:
        if ambient_ratio is not None:
            return ambient_ratio, 1 - ambient_ratio
        return self.ambient_light_color, self.diffuse_light_color
