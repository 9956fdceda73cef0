"""Base class of materials."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.studio.base import BaseModule


class BaseMaterial(BaseModule):
    """Turns a geometry's features into colour."""

    @dataclass
    class Config(BaseModule.Config):
        pass

    cfg: Config
    # Whether forward needs ``shading_normal``.
    requires_normal: bool = False
    requires_tangent: bool = False

    def draw(self) -> dict[str, Any]:
        """What is random about the next batch, as arguments of ``forward``: a renderer draws once
        and then calls ``forward`` for each piece of the batch."""
        return {}

    def forward(self, *args: Any, **kwargs: Any) -> Float[Tensor, "*B 3"]:
        """Colour in [0, 1] of the given points."""
        raise NotImplementedError

    def export(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """``albedo`` and other maps in [0, 1], as far as the material has them."""
        return {}
