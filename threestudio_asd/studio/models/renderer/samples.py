"""Intervals along rays, stored flat and sorted by ray."""

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class RaySamples:
    """N intervals [t_starts, t_ends] on Nr rays; positions are those of their middles."""

    rays_o: Float[Tensor, "Nr 3"]
    rays_d: Float[Tensor, "Nr 3"]
    ray_indices: Int[Tensor, "N"]
    t_starts: Float[Tensor, "N"]
    t_ends: Float[Tensor, "N"]

    @property
    def n_rays(self) -> int:
        return len(self.rays_o)

    @cached_property
    def t_middle(self) -> Float[Tensor, "N 1"]:
        return ((self.t_starts + self.t_ends) / 2)[:, None]

    @cached_property
    def dirs(self) -> Float[Tensor, "N 3"]:
        return self.rays_d[self.ray_indices]

    @cached_property
    def positions(self) -> Float[Tensor, "N 3"]:
        return self.rays_o[self.ray_indices] + self.t_middle * self.dirs

    def as_output(self) -> dict[str, Tensor]:
        """Under the keys of threestudio's renderer."""
        return {
            "t_points": self.t_middle,
            "t_intervals": (self.t_ends - self.t_starts)[:, None],
            "t_dirs": self.dirs,
            "ray_indices": self.ray_indices,
            "points": self.positions,
        }
