"""The Warp hash grid against plain torch: values, gradients, gradients of gradients."""

import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

from threestudio_asd.errors import UserError
from threestudio_asd.kernels._hashgrid_ops import encode
from threestudio_asd.kernels.hashgrid import GridSpec, HashGrid, hashgrid_reference

# Two direct levels and three hashed ones.
SPEC = GridSpec(5, 2, log2_hashmap_size=9, base_resolution=4, per_level_scale=1.7)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs CUDA"))]  # fmt: skip


def make(n=500, dtype=torch.float32, spec=SPEC, device="cpu"):
    torch.manual_seed(0)
    x = torch.rand(n, 3, dtype=dtype, device=device, requires_grad=True)
    params = torch.randn(spec.n_params, dtype=dtype, device=device, requires_grad=True)
    return x, params


def test_levels_follow_tinycudann():
    spec = GridSpec()
    assert spec.resolutions[:6] == [16, 24, 34, 49, 71, 102]
    assert spec.sizes[:3] == [4096, 13824, 39304]
    assert spec.hashed == [False] * 5 + [True] * 11
    assert spec.sizes[-1] == 2**19
    assert HashGrid(n_levels=2).n_output_dims == 4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("features", [1, 2, 4])
def test_values_and_gradients_match_reference(device, features):
    spec = GridSpec(5, features, 9, 4, 1.7)
    x, params = make(20000, spec=spec, device=device)
    g = torch.randn(20000, spec.n_output_dims, device=device)
    y, y_ref = encode(x, params, spec), hashgrid_reference(x, params, spec)
    torch.testing.assert_close(y, y_ref, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(grad(y, (x, params), g), grad(y_ref, (x, params), g), strict=True):
        # A point within rounding of a cell's face may land on its other side.
        off = (ours - theirs).abs() > 1e-3 + 1e-3 * theirs.abs()
        assert off.float().mean() < 1e-3


def test_double_precision_derivatives():
    x, params = make(7, torch.float64, GridSpec(3, 2, 6, 2, 1.7))
    spec = GridSpec(3, 2, 6, 2, 1.7)
    assert gradcheck(lambda x, p: encode(x, p, spec), (x, params))
    assert gradgradcheck(lambda x, p: encode(x, p, spec), (x, params))
