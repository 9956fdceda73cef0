"""The Warp hash grid against plain torch: values, gradients, gradients of gradients."""

import copy
import subprocess
import sys

import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

from threestudio_asd.errors import UserError
from threestudio_asd.kernels import _hashgrid_ops
from threestudio_asd.kernels._hashgrid_ops import encode
from threestudio_asd.kernels.hashgrid import GridSpec, HashGrid, hashgrid_reference


def small(features=2):
    """Two direct levels, three hashed ones."""
    return GridSpec(5, features, log2_hashmap_size=9, base_resolution=4, per_level_scale=1.7)


def make(spec, n, device="cpu", dtype=torch.float32):
    x = torch.rand(n, 3, dtype=dtype, device=device, requires_grad=True)
    params = torch.randn(spec.n_params, dtype=dtype, device=device, requires_grad=True)
    return x, params


def assert_mostly_close(ours, theirs):
    """Close but for points that float32 puts on the two sides of a cell's face."""
    far = (ours - theirs).abs() > 1e-3 + 1e-3 * theirs.abs()
    assert far.float().mean() < 1e-3


def test_levels_follow_tinycudann():
    spec = GridSpec()
    assert spec.resolutions[:6] == [16, 24, 34, 49, 71, 102]
    assert spec.sizes[:3] == [4096, 13824, 39304]
    assert spec.hashed == [False] * 5 + [True] * 11
    assert spec.sizes[-1] == 2**19
    grid = HashGrid(n_levels=2, n_features_per_level=4)
    assert grid.n_output_dims == 8
    assert grid.params.shape == (4 * (4096 + 13824),)
    assert grid.params.abs().max() <= 1e-4


@pytest.mark.parametrize("features", [1, 2, 4])
def test_values_and_gradients_match_reference(device, features):
    spec = small(features)
    x, params = make(spec, 5000, device)
    g = torch.randn(5000, spec.n_output_dims, device=device)
    y, y_ref = encode(x, params, spec), hashgrid_reference(x, params, spec)
    torch.testing.assert_close(y, y_ref, rtol=1e-4, atol=1e-4)
    (x_g, params_g), (x_ref, params_ref) = grad(y, (x, params), g), grad(y_ref, (x, params), g)
    assert_mostly_close(x_g, x_ref)
    torch.testing.assert_close(params_g, params_ref, rtol=1e-3, atol=1e-3)


def test_second_derivatives_match_reference(device):
    """The way of an orientation loss: normals from the encoding, then a loss on them."""
    spec = small()
    x, params = make(spec, 3000, device)
    results = []
    for f in (encode, hashgrid_reference):
        features = f(x, params, spec)
        (normal,) = grad(features.square().sum(), x, create_graph=True)
        results.append(grad(normal.square().sum() * 1e-4, (x, params)))
    for ours, theirs in zip(*results, strict=True):
        assert_mostly_close(ours / theirs.abs().mean(), theirs / theirs.abs().mean())


def test_double_precision_derivatives():
    torch.manual_seed(0)
    spec = GridSpec(3, 2, 6, 2, 1.7)
    x, params = make(spec, 4, dtype=torch.float64)
    assert gradcheck(lambda x, p: encode(x, p, spec), (x, params))
    assert gradgradcheck(lambda x, p: encode(x, p, spec), (x, params))


def test_threads_agree(device):
    spec = small()
    x, params = make(spec, 5000)
    g = torch.randn(5000, spec.n_output_dims)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 1, 3):  # the first launch compiles
            torch.set_num_threads(threads)
            results.append(grad(encode(x, params, spec), (x, params), g))
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*results[1:], strict=True):
        torch.testing.assert_close(one, three)


def test_outside_the_cube_wraps_like_the_reference(device):
    spec = small()
    x = 6 * torch.rand(2000, 3, device=device) - 3
    params = make(spec, 1, device)[1]
    torch.testing.assert_close(
        encode(x, params, spec), hashgrid_reference(x, params, spec), rtol=1e-3, atol=1e-3
    )
    wild = torch.tensor([[1e30, -1e30, float("nan")], [float("inf"), 0.0, 0.0]], device=device)
    assert encode(wild, params, spec).shape == (2, 10)


def test_only_the_gradients_asked_for_are_computed(monkeypatch):
    """Normals must not pay for a table-sized gradient, nor a table for normals."""
    launched = []
    launch = _hashgrid_ops._Launch.__call__

    def record(self, name, *args):
        launched.append(name)
        launch(self, name, *args)

    monkeypatch.setattr(_hashgrid_ops._Launch, "__call__", record)
    spec = small()
    x, params = make(spec, 10)
    (normal,) = grad(encode(x, params, spec).sum(), x, create_graph=True)
    assert launched == ["encode", "point_grad"]
    grad(normal.sum(), params)
    assert launched == ["encode", "point_grad", "point_grad_backward"]
    launched.clear()
    grad(encode(x.detach(), params, spec).sum(), params)
    assert launched == ["encode", "table_grad"]


def test_no_points(device):
    grid = HashGrid(n_levels=2).to(device)
    x = torch.empty(0, 3, device=device, requires_grad=True)
    y = grid(x)
    assert y.shape == (0, 4)
    y.sum().backward()
    assert x.grad.shape == (0, 3)
    assert not grid.params.grad.any()


def test_module_copies_and_saves():
    grid = HashGrid(n_levels=2)
    x = torch.rand(5, 3)
    twin = copy.deepcopy(grid)
    assert list(grid.state_dict()) == ["params"]
    torch.testing.assert_close(grid(x), twin(x))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(4, 2), r"\(N, 3\), got \(4, 2\)"),
        (torch.rand(4, 3).half(), "float32 or float64, got torch.float16"),
        (torch.rand(4, 3).double(), "must match torch.float32"),
        ([[0.0, 0.0, 0.0]], "torch tensor"),
    ],
)
def test_bad_points(unchecked, x, message):
    with pytest.raises(UserError, match=message):
        HashGrid(n_levels=2)(x)


@pytest.mark.parametrize(
    "sizes",
    [{"n_levels": 0}, {"log2_hashmap_size": 40}, {"n_input_dims": 2}, {"per_level_scale": 0}],
)
def test_bad_sizes(sizes):
    with pytest.raises(UserError, match=next(iter(sizes))):
        HashGrid(**sizes)


def test_import_is_cheap():
    """Warp loads at the first launch, not with the module."""
    code = (
        "import sys; from threestudio_asd.kernels import hashgrid, occgrid, volrend;"
        "assert 'warp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
