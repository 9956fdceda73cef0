"""Intervals along rays, stored flat and sorted by ray."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.kernels.volrend import Rays


@dataclass
class RaySamples:
    """N intervals [t_starts, t_ends] on Nr rays, sorted by ray as marching makes them; positions
    are those of their middles."""

    rays_o: Float[Tensor, "Nr 3"]
    rays_d: Float[Tensor, "Nr 3"]
    ray_indices: Int[Tensor, "N"]
    t_starts: Float[Tensor, "N"]
    t_ends: Float[Tensor, "N"]

    @classmethod
    def nothing(cls, rays_o: Float[Tensor, "Nr 3"], rays_d: Float[Tensor, "Nr 3"]) -> "RaySamples":
        """One sample of no length: it adds nothing, and every output keeps its gradient."""
        index, zero = torch.zeros(1, dtype=torch.int64), torch.zeros(1)
        index, zero = index.to(rays_o.device), zero.to(rays_o.device)
        return cls(rays_o, rays_d, index, zero, zero)

    def __len__(self) -> int:
        return len(self.ray_indices)

    def at(self, index: Int[Tensor, "K"]) -> "RaySamples":
        """Some of the samples."""
        parts = self.ray_indices, self.t_starts, self.t_ends
        return RaySamples(
            self.rays_o, self.rays_d, *(part.index_select(0, index) for part in parts)
        )

    @property
    def n_rays(self) -> int:
        return len(self.rays_o)

    @cached_property
    def rays(self) -> Rays:
        """Which ray each sample is on."""
        return Rays(self.ray_indices, self.n_rays)

    def of_ray(self, values: Float[Tensor, "Nr C"]) -> Float[Tensor, "N C"]:
        """Each sample's row of a table with one row per ray."""
        # Several times as fast as values[ray_indices], forward and backward.
        return values.index_select(0, self.ray_indices)

    @cached_property
    def t_middle(self) -> Float[Tensor, "N 1"]:
        return ((self.t_starts + self.t_ends) / 2)[:, None]

    @cached_property
    def dirs(self) -> Float[Tensor, "N 3"]:
        return self.of_ray(self.rays_d)

    @cached_property
    def positions(self) -> Float[Tensor, "N 3"]:
        return torch.addcmul(self.of_ray(self.rays_o), self.t_middle, self.dirs)

    def as_output(self) -> dict[str, Tensor]:
        """Under the keys of threestudio's renderer."""
        return {
            "t_points": self.t_middle,
            "t_intervals": (self.t_ends - self.t_starts)[:, None],
            "t_dirs": self.dirs,
            "ray_indices": self.ray_indices,
            "points": self.positions,
        }
