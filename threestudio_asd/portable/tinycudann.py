"""Stand-in for ``tinycudann``: the encodings that threestudio's configs use, in float32.

Müller, "tiny-cuda-nn" (2021): names, options, defaults and layout of the parameters.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio_asd.errors import UserError
from threestudio_asd.kernels._warp import check_tensor
from threestudio_asd.kernels.harmonics import MAX_DEGREE, spherical_harmonics
from threestudio_asd.kernels.hashgrid import GridSpec, encode
from threestudio_asd.portable.placeholder import refusing

__all__ = ["Encoding", "free_temporary_memory"]

INSTEAD = "or install tinycudann itself and run on CUDA."
GRID = {
    "n_levels": 16,
    "n_features_per_level": 2,
    "log2_hashmap_size": 19,
    "base_resolution": 16,
    "per_level_scale": 2.0,
}
# Options that would change a grid's result; only these values are implemented.
GRID_FIXED = {"type": "hash", "interpolation": "linear", "stochastic_interpolation": "false"}

__getattr__ = refusing(
    "tinycudann",
    "threestudio-asd's stand-in for tinycudann has encodings only: use otype: VanillaMLP for"
    f" networks, {INSTEAD}",
)


class Encoding(nn.Module):
    """Hash grid (``HashGrid``, or ``Grid`` of type Hash) or ``SphericalHarmonics``.

    As in tinycudann, options that an encoding does not know are ignored (threestudio passes its
    own ones, too), and a grid starts from ``seed`` whatever the state of torch's generators.
    ``params`` is the flat table, empty without one.

    Args:
        n_input_dims: 3.
        encoding_config: ``otype`` and its options.
        dtype: of the features; None is float32, tinycudann's preference where it has no half.

    Raises:
        UserError: on an encoding or an option that is not implemented here.
    """

    def __init__(
        self,
        n_input_dims: int,
        encoding_config: Mapping[str, Any],
        seed: int = 1337,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        otype = str(encoding_config.get("otype")).lower()
        if n_input_dims != 3 or otype not in ("hashgrid", "grid", "sphericalharmonics"):
            raise _unsupported(f"otype {encoding_config.get('otype')} of {n_input_dims} dimensions")
        self.n_input_dims, self.seed = n_input_dims, seed
        self.encoding_config, self.dtype = dict(encoding_config), dtype or torch.float32
        self.spec = None if otype == "sphericalharmonics" else _grid(encoding_config)
        if self.spec is None:
            self.degree = int(encoding_config.get("degree", 4))
            if not 1 <= self.degree <= MAX_DEGREE:
                raise _unsupported(f"SphericalHarmonics of degree {self.degree}")
            self.n_output_dims, n_params = self.degree**2, 0
        else:
            self.n_output_dims, n_params = self.spec.n_output_dims, self.spec.n_params
        random = torch.Generator().manual_seed(seed)
        table = torch.empty(n_params, device="cpu").uniform_(-1e-4, 1e-4, generator=random)
        self.params = nn.Parameter(table)

    def forward(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N C"]:
        """Encode points of the unit cube; differentiable twice.

        Raises:
            UserError: on a wrong shape or device.
        """
        x = x.float()
        check_tensor("Encoding input", x, "(N, 3)", ndim=2, last=3, like=self.params)
        if self.spec is None:
            return spherical_harmonics(x, self.degree).to(self.dtype)
        return encode(x, self.params, self.spec).to(self.dtype)


def free_temporary_memory() -> None:
    """Nothing to free: torch's allocator holds the temporary memory."""


def _grid(config: Mapping[str, Any]) -> GridSpec:
    for key, value in GRID_FIXED.items():
        if str(config.get(key, value)).lower() != value:
            raise _unsupported(f"{key}: {config[key]}")
    return GridSpec(**{key: config.get(key, default) for key, default in GRID.items()})


def _unsupported(what: str) -> UserError:
    return UserError(
        f"threestudio-asd's stand-in for tinycudann has no {what}: use HashGrid,"
        f" ProgressiveBandHashGrid or SphericalHarmonics up to degree {MAX_DEGREE} on 3 dimensions"
        f" with linear interpolation, {INSTEAD}"
    )
