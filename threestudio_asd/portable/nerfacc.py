"""Stand-in for ``nerfacc`` 0.5: what threestudio's volume renderer calls."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from threestudio_asd.kernels.occgrid import OccGridEstimator
from threestudio_asd.kernels.volrend import (
    accumulate_along_rays,
    pack_info,
    render_transmittance_from_density,
    render_weight_from_density,
)
from threestudio_asd.portable.placeholder import refusing

__all__ = [
    "AbstractEstimator",
    "OccGridEstimator",
    "RayIntervals",
    "accumulate_along_rays",
    "pack_info",
    "render_transmittance_from_density",
    "render_weight_from_density",
]

ADVICE = (
    "threestudio-asd's stand-in for nerfacc covers the occupancy grid and rendering from"
    " densities only: use renderer.estimator=occgrid, or nerfacc itself on CUDA."
)

__getattr__ = refusing("nerfacc", ADVICE)


@dataclass
class RayIntervals:
    """Sorted edges along rays: ``vals`` (R, S+1)."""

    vals: Tensor
    packed_info: Tensor | None = None
    ray_indices: Tensor | None = None
    is_left: Tensor | None = None
    is_right: Tensor | None = None


class AbstractEstimator(nn.Module):
    """The base class of threestudio's importance estimator."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_dummy", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        return self._dummy.device
