"""``solid-color-background``: one colour, fixed or learned."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio_asd.errors import UserError
from threestudio_asd.studio.models.background.base import BaseBackground
from threestudio_asd.studio.registry import register


@register("solid-color-background")
class SolidColorBackground(BaseBackground):
    @dataclass
    class Config(BaseBackground.Config):
        color: tuple = (1.0, 1.0, 1.0)
        learned: bool = False

    cfg: Config

    def configure(self) -> None:
        env_color = torch.tensor([float(c) for c in self.cfg.color])
        if len(env_color) not in (1, self.cfg.n_output_dims):
            raise UserError(
                f"background.color has {len(env_color)} values for "
                f"n_output_dims={self.cfg.n_output_dims}."
            )
        if self.cfg.learned:
            self.env_color = nn.Parameter(env_color)
        else:
            self.register_buffer("env_color", env_color)

    def color(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W Nc"]:
        return self.env_color.to(dirs).expand(*dirs.shape[:-1], self.cfg.n_output_dims)
