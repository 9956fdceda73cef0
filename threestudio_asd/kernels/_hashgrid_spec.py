"""Sizes of a multiresolution hash grid, as :mod:`.hashgrid` explains them."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from threestudio_asd.errors import UserError


@dataclass(frozen=True)
class GridSpec:
    """Sizes of a hash grid; per level: scale, points per axis, table rows, first row, hashed."""

    n_levels: int = 16
    n_features_per_level: int = 2
    log2_hashmap_size: int = 19
    base_resolution: int = 16
    per_level_scale: float | int = 1.447269237440378

    def __post_init__(self) -> None:
        for name in ("n_levels", "n_features_per_level", "base_resolution"):
            if getattr(self, name) < 1:
                raise UserError(f"HashGrid {name} must be at least 1, got {getattr(self, name)}.")
        if not 3 <= self.log2_hashmap_size <= 28:
            raise UserError(
                f"HashGrid log2_hashmap_size must lie in 3..28, got {self.log2_hashmap_size}."
            )
        if not self.per_level_scale > 0:
            raise UserError(
                f"HashGrid per_level_scale must be positive, got {self.per_level_scale}."
            )

    @cached_property
    def scales(self) -> list[float]:
        """Cells per unit length, rounded to float32 as in tinycudann."""
        exact = (self.base_resolution * self.per_level_scale**i - 1 for i in range(self.n_levels))
        return [float(np.float32(scale)) for scale in exact]

    @cached_property
    def resolutions(self) -> list[int]:
        """Grid points per axis."""
        return [math.ceil(scale) + 1 for scale in self.scales]

    @cached_property
    def sizes(self) -> list[int]:
        """Table rows per level, a multiple of 8."""
        return [min(-(-(r**3) // 8) * 8, 1 << self.log2_hashmap_size) for r in self.resolutions]

    @cached_property
    def offsets(self) -> list[int]:
        """First row of each level, and the number of rows at the end."""
        return [sum(self.sizes[:i]) for i in range(self.n_levels + 1)]

    @cached_property
    def hashed(self) -> list[bool]:
        """Whether a level's grid points outnumber its rows."""
        return [r**3 > size for r, size in zip(self.resolutions, self.sizes, strict=True)]

    @property
    def n_params(self) -> int:
        return self.offsets[-1] * self.n_features_per_level

    @property
    def n_output_dims(self) -> int:
        return self.n_levels * self.n_features_per_level
