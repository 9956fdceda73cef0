"""``random-grey-background``: another grey behind every image of a training batch."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.errors import UserError


@host.register("random-grey-background")
class RandomGreyBackground(host.BaseModule):
    """What is seen before one grey alone may be of that grey: fog between the legs of a table costs
    nothing until the grey behind it changes. Evaluation sees ``color``.

    Uniform greys, as behind the pictures that the embedded models are trained on; for colours see
    threestudio's ``random_aug``.
    """

    @dataclass
    class Config(host.BaseModule.Config):
        n_output_dims: int = 3
        range: tuple[float, float] = (0.15, 0.92)
        """Between which the greys of training are drawn, in [0, 1]."""
        color: tuple[float, float, float] = (0.5, 0.5, 0.5)
        """In evaluation, RGB in [0, 1]."""
        n_view: int = 1
        """Images, one after the other, that share a grey: views of one scene, for a teacher that
        takes them together."""

    cfg: Config

    def configure(self) -> None:
        low, high = self.cfg.range
        if not 0.0 <= low <= high <= 1.0:
            raise UserError(
                f"system.background.range is [{low}, {high}]; give two greys in [0, 1], the "
                "darker one first."
            )
        if self.cfg.n_view < 1:
            raise UserError(f"system.background.n_view is {self.cfg.n_view}; at least 1.")
        if len(self.cfg.color) != self.cfg.n_output_dims:
            raise UserError(
                f"system.background.color has {len(self.cfg.color)} values for "
                f"n_output_dims={self.cfg.n_output_dims}."
            )

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W Nc"]:
        """Colour in [0, 1] along unit view directions ``dirs``; in training one grey an image."""
        shape = (*dirs.shape[:-1], self.cfg.n_output_dims)
        if not self.training:
            return torch.tensor(list(self.cfg.color)).to(dirs).expand(shape)
        low, high = self.cfg.range
        # Drawn on the CPU: the same greys on every device.
        scenes = -(-len(dirs) // self.cfg.n_view)
        grey = low + (high - low) * torch.rand(scenes, 1, 1, 1)
        grey = grey.repeat_interleave(self.cfg.n_view, dim=0)[: len(dirs)]
        return grey.to(dirs, non_blocking=True).expand(shape)
