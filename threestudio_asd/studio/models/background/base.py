"""Base class of backgrounds."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.studio.base import BaseModule


class BaseBackground(BaseModule):
    """The colour seen by rays that hit nothing."""

    @dataclass
    class Config(BaseModule.Config):
        n_output_dims: int = 3
        # In training, with this probability, one random colour per image instead.
        random_aug: bool = False
        random_aug_prob: float = 0.5

    cfg: Config

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W Nc"]:
        """Colour in [0, 1] along unit view directions ``dirs``."""
        if self.training and self.cfg.random_aug and torch.rand(()) < self.cfg.random_aug_prob:
            # Drawn on the CPU: the same colours on every device.
            color = torch.rand(self.random_colors(len(dirs)), 1, 1, self.cfg.n_output_dims)
            return color.to(dirs).expand(*dirs.shape[:-1], -1)
        return self.color(dirs)

    def random_colors(self, images: int) -> int:
        """How many colours are drawn for a batch of ``images``: one for each, or one for all."""
        return images

    def color(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W Nc"]:
        """Colour without augmentation."""
        raise NotImplementedError
