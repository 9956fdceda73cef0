"""Compositing against closed forms and plain torch."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from waits import Waits

from threestudio_asd.errors import UserError
from threestudio_asd.kernels.occgrid import OccGridEstimator
from threestudio_asd.kernels.volrend import (
    Rays,
    accumulate_along_rays,
    exclusive_sum,
    exclusive_sum_reference,
    pack_info,
    render_transmittance_from_density,
    render_weight_from_density,
)


def segments(n_rays, device, dtype=torch.float32):
    """Rays of 0..30 samples: (ray_indices, starts, ends)."""
    counts = torch.randint(0, 31, (n_rays,))
    rays = torch.arange(n_rays).repeat_interleave(counts).to(device)
    starts = torch.rand(len(rays), device=device, dtype=dtype)
    return rays, starts, starts + 0.1 * torch.rand_like(starts)


def test_exclusive_sum_matches_reference_both_ways(device):
    rays, values, _ = segments(700, device)
    packs = pack_info(rays, 700)
    values.requires_grad_()
    weights = torch.randn_like(values)
    ours, theirs = exclusive_sum(values, packs), exclusive_sum_reference(values, packs)
    torch.testing.assert_close(ours, theirs)
    (g,) = torch.autograd.grad((ours * weights).sum(), values)
    torch.testing.assert_close(g, exclusive_sum_reference(weights, packs, reverse=True))
    (g_ref,) = torch.autograd.grad((theirs * weights).sum(), values)
    torch.testing.assert_close(g, g_ref)


def test_constant_density_has_the_closed_form(device):
    """Opacity of a homogeneous medium of length L: 1 - exp(-sigma L)."""
    edges = torch.linspace(0, 2, 101, device=device)
    starts, ends = edges[:-1].repeat(3), edges[1:].repeat(3)
    rays = torch.arange(3, device=device).repeat_interleave(100)
    density = torch.tensor([0.3, 2.0, 50.0], device=device)
    weights, trans, alphas = render_weight_from_density(
        starts, ends, density[rays], ray_indices=rays, n_rays=3
    )
    opacity = accumulate_along_rays(weights, None, rays, 3)
    torch.testing.assert_close(opacity[:, 0], 1 - torch.exp(-2 * density))
    torch.testing.assert_close(trans, torch.exp(-density[rays] * starts))
    torch.testing.assert_close(weights, trans * alphas)


def test_derivatives_in_double_precision():
    torch.manual_seed(0)
    rays, starts, ends = segments(3, "cpu", torch.float64)
    rays, starts, ends = rays[::4].contiguous(), starts[::4], ends[::4]
    sigmas = torch.rand_like(starts)
    values = torch.rand(len(rays), 2, dtype=torch.float64)

    def render(starts, ends, sigmas, values):
        weights, trans, _ = render_weight_from_density(
            starts, ends, sigmas, ray_indices=rays, n_rays=4
        )
        return accumulate_along_rays(weights, values, rays, 4), trans

    inputs = [t.requires_grad_() for t in (starts, ends, sigmas, values)]
    assert gradcheck(render, inputs)
    assert gradgradcheck(render, inputs)


def test_packed_batched_and_flat_agree():
    starts = torch.rand(4, 5).cumsum(-1)
    ends, sigmas, before = starts + 0.1, torch.rand(4, 5), torch.rand(4, 5)
    batched = render_weight_from_density(starts, ends, sigmas, prefix_trans=before)
    flat = [t.flatten() for t in (starts, ends, sigmas)]
    rays = torch.arange(4).repeat_interleave(5)
    prefix = before.flatten()
    by_index = render_weight_from_density(*flat, ray_indices=rays, n_rays=4, prefix_trans=prefix)
    packs = torch.tensor([[0, 5], [5, 5], [10, 5], [15, 5]])
    by_pack = render_weight_from_density(*flat, packed_info=packs, prefix_trans=prefix)
    for a, b, c in zip(batched, by_index, by_pack, strict=True):
        torch.testing.assert_close(a.flatten(), b)
        torch.testing.assert_close(b, c)
    colors = torch.rand(4, 5, 3)
    torch.testing.assert_close(
        accumulate_along_rays(batched[0], colors),
        accumulate_along_rays(by_index[0], colors.view(-1, 3), rays, 4),
    )


def test_networks_may_return_half_precision():
    rays, starts, ends = segments(5, "cpu")
    sigmas, colors = torch.rand_like(starts).bfloat16(), torch.rand(len(rays), 3).half()
    weights, _, _ = render_weight_from_density(starts, ends, sigmas, ray_indices=rays, n_rays=5)
    out = accumulate_along_rays(weights, colors, rays, 5)
    assert weights.dtype == out.dtype == torch.float32


def test_no_samples(device):
    none = torch.empty(0, device=device, requires_grad=True)
    rays = torch.empty(0, dtype=torch.int64, device=device)
    weights, _, _ = render_weight_from_density(none, none, none, ray_indices=rays, n_rays=3)
    out = accumulate_along_rays(weights, torch.empty(0, 3, device=device), rays, 3)
    assert out.shape == (3, 3)
    out.sum().backward()
    assert none.grad.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": torch.ones(3)}, "sigmas must have shape"),
        ({"sigmas": torch.ones(4).double()}, "sigmas is torch.float64"),
        ({"ray_indices": torch.tensor([0, 1, 0, 1])}, "sorted"),
        ({"ray_indices": torch.tensor([0, 0, 1, 2])}, r"0\.\.1, got 0\.\.2"),
        ({"ray_indices": torch.tensor([0, 0, 1, 1]).int()}, "int64"),
        ({"ray_indices": torch.tensor([0, 0, 1])}, "one per sample"),
        ({"ray_indices": None, "packed_info": torch.tensor([[0, 9]])}, "packed_info"),
    ],
)
def test_bad_samples(unchecked, change, message):
    args = {"sigmas": torch.ones(4), "ray_indices": torch.tensor([0, 0, 1, 1]), "n_rays": 2}
    with pytest.raises(UserError, match=message):
        render_transmittance_from_density(torch.zeros(4), torch.ones(4), **{**args, **change})


def test_bad_accumulation(unchecked):
    weights, rays = torch.ones(4), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(UserError, match="n_rays"):
        accumulate_along_rays(weights, None, rays)
    with pytest.raises(UserError, match="one row per weight"):
        accumulate_along_rays(weights, torch.ones(3, 2), rays, 1)
    with pytest.raises(UserError, match=r"0\.\.0, got 5\.\.5"):
        accumulate_along_rays(weights, None, rays + 5, 1)


def test_known_rays_are_not_looked_at_again():
    torch.manual_seed(0)
    rays, starts, ends = segments(50, "cpu")
    sigmas, colors = 10 * torch.rand_like(starts), torch.rand(len(rays), 3)

    def run(**known):
        with Waits() as waits:
            weights, trans, alphas = render_weight_from_density(starts, ends, sigmas, **known)
            sums = accumulate_along_rays(weights, colors, **known)
        return (weights, trans, alphas, sums), waits.count

    expected, looks = run(ray_indices=rays, n_rays=60)
    assert looks == 2
    found, looks = run(ray_indices=Rays.checked(rays, 60, len(rays)))
    assert looks == 0
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UserError, match=f"{len(rays)} samples of Rays, got {len(rays) - 1}"):
        accumulate_along_rays(weights=starts[1:], ray_indices=Rays(rays, 60))


def test_a_grid_looks_at_its_own_samples_for_their_number_alone():
    torch.manual_seed(0)
    estimator = OccGridEstimator([-1.0] * 3 + [1.0] * 3, resolution=4)
    estimator.binaries.fill_(True)
    estimator.occs.fill_(1.0)
    rays_o = torch.tensor([[-2.0, 0.1, 0.1]]).repeat(3, 1)
    rays_d = torch.tensor([[1.0, 0.0, 0.0]]).repeat(3, 1)

    def field(t_starts, t_ends, ray_indices):
        return torch.where(t_starts < 2, 5.0, 0.0)

    with Waits() as waits:
        rays, starts, _ = estimator.sampling(
            rays_o, rays_d, field, render_step_size=0.1, alpha_thre=0.01
        )
    assert waits.count == 2  # of the marching, and of what is visible
    assert len(rays) > 0 and starts.max() < 2
