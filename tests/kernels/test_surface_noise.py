"""Noise on surfaces: kernel against plain torch, and the guarantees for any geometry."""

import pytest
import torch
from waits import Waits

from threestudio_asd.errors import UserError
from threestudio_asd.kernels.surface_noise import (
    patch_samples,
    surface_noise,
    surface_noise_reference,
    texel_rows,
)

H, W = 12, 10


def rolling(device, images=2):
    """Corners on a wavy sheet that folds over itself, and the pixels of it that are seen."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, H + 1), torch.linspace(-1, 1, W + 1), indexing="ij")
    corners = torch.stack([x + 0.3 * (4 * y).sin(), y, 0.5 * (3 * x).cos()], dim=-1)
    corners = corners + 0.05 * torch.randn(images, H + 1, W + 1, 3)
    return corners.to(device), torch.rand(images, H, W, device=device) < 0.8


@pytest.mark.parametrize("side", [1, 3, 8])
@pytest.mark.parametrize(("rows", "texel_size"), [(2**16, 0.05), (2**6, 0.05), (2**12, 0.5)])
def test_the_kernel_is_its_reference(device, rows, texel_size, side):
    """Also where texels share rows, and where a texel is larger than a pixel."""
    corners, covered = rolling(device)
    texels = torch.randn(rows, 4, device=device)
    args = texels, corners, covered, texel_size, side
    (noise, counts), (expected, number) = surface_noise(*args), surface_noise_reference(*args)
    assert counts.equal(number)
    torch.testing.assert_close(noise, expected, rtol=1e-5, atol=1e-5)
    assert noise.movedim(1, -1)[counts == 0].abs().sum() == 0
    assert counts[~covered].sum() == 0 < counts[covered].sum()


def test_the_same_on_both_devices():
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    corners, covered = rolling("cpu")
    texels = torch.randn(2**14, 4)
    here = surface_noise(texels, corners, covered, 0.03)
    there = surface_noise(texels.cuda(), corners.cuda(), covered.cuda(), 0.03)
    assert here[1].equal(there[1].cpu())
    torch.testing.assert_close(here[0], there[0].cpu(), rtol=1e-6, atol=1e-6)


def test_no_number_is_in_two_pixels_of_an_image(device):
    """With a channel for each row the noise says which rows a pixel has: 1 / sqrt(K) each."""
    corners, covered = rolling(device)
    rows = 2**8  # few, so that many texels share one
    noise, counts = surface_noise(torch.eye(rows, device=device), corners, covered, 0.05)
    has = noise > 0
    assert has.sum((2, 3)).max() == 1
    assert has.sum(1).equal(counts)
    torch.testing.assert_close(noise.square().sum(1), (counts > 0).float())


def test_many_fields_make_independent_pixels_of_variance_one(device):
    corners, covered = rolling(device, images=1)
    fields = 4000
    noise, counts = surface_noise(torch.randn(2**12, fields, device=device), corners, covered, 0.1)
    samples = noise[0].permute(1, 2, 0)[counts[0] > 0].double()  # (pixels, fields)
    assert len(samples) > 50
    among = samples @ samples.T / fields
    error = among - torch.eye(len(samples)).to(among)
    # An estimate from n draws has a standard deviation of sqrt(2 / n) on the diagonal.
    assert error.abs().max() < 6 * (2 / fields) ** 0.5
    assert error.square().mean().sqrt() < 1.2 / fields**0.5


def test_equal_patches_have_equal_noise_wherever_they_are_in_the_image(device):
    """A camera that has moved by one pixel along a plane, and another that sees it mirrored."""
    x = torch.arange(W + 2) / 8
    y, x = torch.meshgrid(torch.arange(H + 1) / 8, x, indexing="ij")
    plane = torch.stack([x, y, 0.2 * x - 0.1 * y], dim=-1).to(device)
    views = torch.stack([plane[:, :-1], plane[:, 1:]])
    covered = torch.ones(2, H, W, dtype=torch.bool, device=device)
    texels = torch.randn(2**14, 3, device=device)
    noise, counts = surface_noise(texels, views, covered, 1 / 32, side=16)
    assert counts.min() > 8
    # All but the texels where pixels meet are the same: of their own pixels.
    same = torch.nn.functional.cosine_similarity(noise[0, :, :, 1:], noise[1, :, :, :-1], dim=0)
    assert same.mean() > 0.95
    turned, _ = surface_noise(texels, views[:1].flip(1, 2), covered[:1], 1 / 32, side=16)
    again = torch.nn.functional.cosine_similarity(turned[0].flip(1, 2), noise[0], dim=0)
    assert again.mean() > 0.75
    apart = torch.nn.functional.cosine_similarity(noise[0, :, :, 1:], noise[0, :, :, :-1], dim=0)
    assert apart.mean().abs() < 0.2


def test_rows_are_those_of_texels_around_multiples_of_their_side():
    points = torch.tensor([[0.0, 0.0, 0.0], [0.049, -0.049, 0.0], [0.051, 0.0, 0.0]])
    rows = texel_rows(points / 0.1 + 0.5, 2**20)
    assert rows[0] == rows[1] != rows[2]
    grid = torch.cartesian_prod(*[torch.arange(-20.0, 20.0)] * 3)
    rows = texel_rows(grid + 0.5, 2**20)
    # 64000 texels in 2^20 rows: as many meet as of random ones.
    expected = 2**20 * (1 - (1 - 2**-20) ** len(grid))
    assert abs(len(rows.unique()) - expected) < 5 * (len(grid) - expected) ** 0.5
    assert rows.double().mean().item() == pytest.approx(2**19, rel=0.01)


def test_samples_lie_within_their_patch():
    corners = torch.randn(1, 2, 2, 3)
    points = patch_samples(corners, 5)
    assert points.shape == (1, 1, 1, 25, 3)
    torch.testing.assert_close(points.mean(-2)[0, 0, 0], corners.mean((0, 1, 2)))
    quarter = patch_samples(corners, 2)[0, 0, 0, 0]
    weights = torch.tensor([[9.0, 3.0], [3.0, 1.0]]) / 16
    torch.testing.assert_close(quarter, (weights[..., None] * corners[0]).sum((0, 1)))


def test_points_that_are_nowhere_change_nothing(device):
    corners, covered = rolling(device)
    covered[:, :2] = False
    texels = torch.randn(2**12, 4, device=device)
    noise, _ = surface_noise(texels, corners, covered, 0.05)
    corners[:, :2] = torch.tensor([torch.nan, torch.inf, -torch.inf], device=device)
    again, _ = surface_noise(texels, corners, covered, 0.05)
    assert again[:, :, :2].abs().sum() == 0
    assert torch.equal(again[:, :, 2:], noise[:, :, 2:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texels": torch.randn(100, 4)}, "a power of two of rows.* with 100"),
        ({"texels": torch.randn(64, 4).double()}, "it must match torch.float64"),
        ({"corners": torch.randn(1, 4, 4, 2)}, r"\(B, H \+ 1, W \+ 1, 3\), got \(1, 4, 4, 2\)"),
        ({"covered": torch.ones(1, 4, 4, dtype=torch.bool)}, r"covered must be bool \(1, 3, 3\)"),
        ({"covered": torch.ones(1, 3, 3)}, r"covered must be bool .* got torch.float32"),
        ({"texel_size": 0.0}, "texel_size and side must be positive; got 0.0 and 8"),
        ({"side": 30000}, "pixels of 30000\\^2 samples are too many"),
    ],
)
def test_bad_input_is_told(unchecked, change, message):
    args = {
        "texels": torch.randn(64, 4),
        "corners": torch.randn(1, 4, 4, 3),
        "covered": torch.ones(1, 3, 3, dtype=torch.bool),
        "texel_size": 0.1,
        "side": 8,
    }
    with pytest.raises(UserError, match=message):
        surface_noise(**args | change)


def test_the_cpu_waits_for_nothing():
    corners, covered = rolling("cpu")
    texels = torch.randn(2**12, 4)
    surface_noise(texels, corners, covered, 0.05)
    with Waits() as waits:
        surface_noise(texels, corners, covered, 0.05)
    assert waits.count == 0


def test_no_images_no_noise():
    noise, counts = surface_noise(
        torch.randn(8, 4), torch.zeros(0, 3, 3, 3), torch.zeros(0, 2, 2, dtype=torch.bool), 0.1
    )
    assert noise.shape == (0, 4, 2, 2) and counts.shape == (0, 2, 2)
