"""The stand-in for nerfacc against the real one, where that runs in plain torch on a CPU.

Its ray marching and its sums over packed samples are CUDA only; ``tests/kernels`` compares those
with references of our own. To run: pip install nerfacc==0.5.3.
"""

import pytest
import torch
from torch.autograd import grad

from threestudio_asd.errors import UserError
from threestudio_asd.portable import nerfacc as ours

BOX = [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]
RAYS, SAMPLES = 6, 20


@pytest.fixture
def real():
    return pytest.importorskip("nerfacc", minversion="0.5.3")


@pytest.fixture
def samples():
    torch.manual_seed(0)
    edges = torch.rand(RAYS, SAMPLES + 1).cumsum(-1)
    return edges[:, :-1], edges[:, 1:], 3 * torch.rand(RAYS, SAMPLES)


def flat(*tensors):
    rays = torch.arange(RAYS).repeat_interleave(SAMPLES)
    return *(t.flatten() for t in tensors), rays


def test_weights_and_their_gradients(real, samples):
    starts, ends, sigmas = samples
    sigmas.requires_grad_()
    theirs = real.render_weight_from_density(starts, ends, sigmas)
    *packed, rays = flat(starts, ends, sigmas)
    packed = ours.render_weight_from_density(*packed, ray_indices=rays, n_rays=RAYS)
    batched = ours.render_weight_from_density(starts, ends, sigmas)
    g = torch.randn(RAYS, SAMPLES)
    for a, b, c in zip(packed, batched, theirs, strict=True):
        torch.testing.assert_close(a.view_as(c), c)
        torch.testing.assert_close(b, c)
        expected = grad(c, sigmas, g, retain_graph=True)[0]
        for result in (a.view_as(c), b):
            (actual,) = grad(result, sigmas, g, retain_graph=True)
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_whole_distances_count_as_real_ones(real, samples, dtype):
    sigmas = samples[2].requires_grad_()
    starts = torch.arange(SAMPLES, dtype=dtype).expand(RAYS, -1)
    ends = starts + 2 * torch.randint(2, starts.shape, dtype=dtype)
    found = [module.render_weight_from_density(starts, ends, sigmas) for module in (ours, real)]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    gradients = [grad(weights.square().sum(), sigmas)[0] for weights, *_ in found]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_sums_along_rays_and_their_gradients(real, channels):
    torch.manual_seed(1)
    rays = torch.randint(RAYS, (50,)).sort().values
    inputs = [torch.rand(50, requires_grad=True)]
    inputs += [] if channels is None else [torch.rand(50, channels, requires_grad=True)]
    a, b = (
        module.accumulate_along_rays(*inputs, ray_indices=rays, n_rays=RAYS + 1)
        for module in (ours, real)
    )
    torch.testing.assert_close(a, b)
    g = torch.randn_like(a)
    for x, y in zip(grad(a, inputs, g), grad(b, inputs, g), strict=True):
        torch.testing.assert_close(x, y)


def test_grid_updates_draw_and_store_the_same(real):
    """Same seed, same field: the grids stay equal through warm-up; later a cell that is drawn
    twice may keep either value in the real one."""

    def field(x):
        return (1 - x.norm(dim=-1, keepdim=True)).clamp(min=0)

    grids = [module.OccGridEstimator(BOX, resolution=8) for module in (ours, real)]
    for step in (0, 3, 16, 256):
        for grid in grids:
            torch.manual_seed(step)
            grid.train().update_every_n_steps(step, field)
        a, b = (grid.occs for grid in grids)
        if step < 256:
            torch.testing.assert_close(a, b)
            assert torch.equal(grids[0].binaries, grids[1].binaries)
        else:
            assert (a - b).abs().gt(1e-6).float().mean() < 0.25
            assert a.ge(b - 1e-6).all()
    names = [list(grid.state_dict()) for grid in grids]
    assert names[0] == names[1]


def test_marching_finds_the_cells_that_the_real_query_finds(real):
    """A lattice point of a ray is a sample exactly if the real library calls its cell occupied."""
    from nerfacc.grid import _query

    torch.manual_seed(2)
    grid = ours.OccGridEstimator(BOX, resolution=8)
    grid.binaries = torch.rand(grid.binaries.shape) < 0.3
    origins = torch.tensor([[0.1, 0.2, -3.0], [2.5, -0.3, 0.15], [-2, -2.1, -1.9]])
    directions = torch.nn.functional.normalize(0.3 * torch.rand(3, 3) - origins, dim=-1)
    step, count = 0.05, 120
    rays, starts, ends = grid.sampling(origins, directions, render_step_size=step)
    found = torch.zeros(3, count, dtype=torch.bool)
    found[rays, ((starts + ends) / 2 / step).long()] = True
    middles = (torch.arange(count) + 0.5) * step
    points = origins[:, None] + directions[:, None] * middles[:, None]
    occupied, inside = _query(points.view(-1, 3), grid.binaries, grid.aabbs[0])
    assert occupied.any()
    assert torch.equal(found.flatten(), occupied.bool() & inside.bool())


def validate_empty_rays(ray_indices, t_starts, t_ends):
    """threestudio's: one sample without length, whole numbers all of it, where there is none."""
    assert len(ray_indices) == 0
    nothing = torch.tensor([0.0]).to(ray_indices)
    return torch.tensor([0]), nothing, nothing


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_rays_that_hit_nothing_are_rendered_as_threestudio_does(precision):
    """``precision`` is the networks', half under autocast."""
    grid = ours.OccGridEstimator(BOX, resolution=8)
    origins, directions = torch.tensor([[0.0, 0.0, -3.0]] * 4), torch.tensor([[0.0, 0.0, 1.0]] * 4)
    samples = grid.sampling(origins, directions, sigma_fn=len, render_step_size=0.1)
    rays, starts, ends = validate_empty_rays(*samples)
    assert starts.dtype == ends.dtype == torch.int64
    middles = (starts + ends)[:, None] / 2.0
    density = torch.full((1,), 5.0, dtype=precision, requires_grad=True)
    color = torch.rand(1, 3, dtype=precision, requires_grad=True)
    weights, trans, alphas = ours.render_weight_from_density(
        starts, ends, density, ray_indices=rays, n_rays=4
    )
    assert [float(out.detach()) for out in (weights, trans, alphas)] == [0.0, 1.0, 0.0]
    opacity, depth, image = (
        ours.accumulate_along_rays(weights, values, ray_indices=rays, n_rays=4)
        for values in (None, middles, color)
    )
    normalised = weights / opacity[:, 0].clamp(min=1e-5)[rays]
    spread = ours.accumulate_along_rays(normalised, middles**2, ray_indices=rays, n_rays=4)
    for out in (opacity, depth, image, spread):
        assert out.dtype == torch.float32 and not out.any()
    loss = sum(out.sum() for out in (opacity, depth, image, spread))
    assert not any(g.any() for g in grad(loss, [density, color]))


@pytest.mark.parametrize(
    "name", ["PropNetEstimator", "render_weight_from_alpha", "importance_sampling", "searchsorted"]
)
def test_the_rest_imports_and_raises_on_use(name):
    with pytest.raises(UserError, match=rf"nerfacc\.{name} is called.*estimator=occgrid"):
        getattr(ours, name)(1)
