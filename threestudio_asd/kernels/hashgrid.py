"""Multiresolution hash encoding, twice differentiable.

Müller et al., "Instant neural graphics primitives with a multiresolution hash encoding" (2022),
section 3, in the layout of tinycudann's ``HashGrid``:

    scale_l = base_resolution * per_level_scale^l - 1,   pos = x * scale_l + 1/2
    y_l(x)  = sum over the 8 corners c of the cell of pos:  w_c(frac pos) * table[row_l(c)]

A level whose (ceil(scale_l) + 1)^3 grid points fit into 2^log2_hashmap_size rows is indexed
directly, a finer one by the hash (x * 1) xor (y * 2654435761) xor (z * 805459861).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio_asd.errors import UserError
from threestudio_asd.kernels._hashgrid_ops import PRIMES, encode
from threestudio_asd.kernels._hashgrid_spec import GridSpec
from threestudio_asd.kernels._warp import check_tensor


def hashgrid_reference(
    x: Float[Tensor, "N 3"], params: Float[Tensor, "P"], spec: GridSpec
) -> Float[Tensor, "N D"]:
    """The encoding in plain torch: the ground truth of the kernels, any order of derivative."""
    table = params.view(-1, spec.n_features_per_level)
    out = []
    for scale, resolution, size, offset, hashed in zip(
        spec.scales, spec.resolutions, spec.sizes, spec.offsets, spec.hashed, strict=False
    ):
        pos = x * scale + 0.5
        low = pos.detach().floor()
        t = pos - low
        features = 0.0
        for corner in range(8):
            bits = torch.tensor([corner >> axis & 1 for axis in range(3)], device=x.device)
            # Coordinates are 32-bit unsigned, so those outside the cube wrap.
            c = (low.long() + bits) & 0xFFFFFFFF
            if hashed:
                row = c[:, 0] ^ (c[:, 1] * PRIMES[1]) ^ (c[:, 2] * PRIMES[2])
            else:
                row = c[:, 0] + resolution * (c[:, 1] + resolution * c[:, 2])
            weight = torch.where(bits.bool(), t, 1 - t).prod(dim=-1, keepdim=True)
            features = features + weight * table[offset + (row & 0xFFFFFFFF) % size]
        out.append(features)
    return torch.cat(out, dim=-1)


class HashGrid(nn.Module):
    """Hash encoding of points in the unit cube; tinycudann's ``HashGrid`` with the same defaults.

    Args:
        n_levels: resolution levels L, coarse to fine.
        n_features_per_level: features F of a level.
        log2_hashmap_size: binary logarithm of the most table rows a level may have.
        base_resolution: grid points per axis of the coarsest level.
        per_level_scale: growth of the resolution from level to level.
        n_input_dims: must be 3.

    ``params`` is one flat table, level-major, uniform in +-1e-4 at first; ``n_output_dims`` is
    L*F.

    Raises:
        UserError: if a size is out of range.
    """

    def __init__(
        self,
        n_levels: int = 16,
        n_features_per_level: int = 2,
        log2_hashmap_size: int = 19,
        base_resolution: int = 16,
        per_level_scale: float | int = 1.447269237440378,
        n_input_dims: int = 3,
    ) -> None:
        super().__init__()
        if n_input_dims != 3:
            raise UserError(f"HashGrid encodes 3D points only, got n_input_dims={n_input_dims}.")
        self.spec = GridSpec(
            n_levels, n_features_per_level, log2_hashmap_size, base_resolution, per_level_scale
        )
        self.n_input_dims = n_input_dims
        self.n_output_dims = self.spec.n_output_dims
        self.params = nn.Parameter(torch.empty(self.spec.n_params).uniform_(-1e-4, 1e-4))

    def forward(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N D"]:
        """Encode points; level-major features, differentiable twice in x and ``params``.

        Points outside the unit cube are not clamped: as in tinycudann their grid coordinates wrap
        around the table (never outside it), so the result is finite but without meaning.

        Raises:
            UserError: on a wrong shape, dtype or device.
        """
        check_tensor("HashGrid input", x, "(N, 3)", ndim=2, last=3, like=self.params)
        return encode(x, self.params, self.spec)

    def extra_repr(self) -> str:
        return repr(self.spec)
