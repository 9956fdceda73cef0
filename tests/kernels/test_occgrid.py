"""Ray marching against the plain-torch reference, and the life of the occupancy grid."""

import pytest
import torch
from torch.nn.functional import normalize

from threestudio_asd.errors import UserError
from threestudio_asd.kernels.march import march, march_reference
from threestudio_asd.kernels.occgrid import OccGridEstimator

BOX = [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]


def estimator(device="cpu", levels=1, occupied=1.0, resolution=16):
    grid = OccGridEstimator(BOX, resolution, levels).to(device)
    grid.binaries.copy_(torch.rand(grid.binaries.shape) < occupied)
    return grid


def ray(origin, direction):
    return torch.tensor([origin], dtype=torch.float32), torch.tensor([direction]).float()


@pytest.mark.parametrize("cone_angle", [0.0, 0.02])
@pytest.mark.parametrize("levels", [1, 3])
def test_march_matches_reference(device, levels, cone_angle):
    grid = estimator(device, levels, occupied=0.3)
    n = 300
    o = 2 * torch.randn(n, 3, device=device)
    o[:80] *= 0.2  # inside
    d = normalize(-o + 0.6 * torch.randn_like(o), dim=-1)
    d[::7] = -d[::7]  # away
    d[80:110] = torch.eye(3, device=device).repeat(10, 1)  # parallel to an axis
    nears = 0.1 * torch.rand(n, device=device)
    args = (o, d, grid.aabbs, grid.binaries, nears, torch.full_like(nears, 1e10), 0.03, cone_angle)
    ours, theirs = march(*args), march_reference(*args)
    assert len(ours[0]) > 1000
    # Midpoints within rounding of a face may go either way: compare as sets of steps. Counted from
    # the ray's near plane, no step of a lattice of 0.03 lies where rounding to 0.01 is undecided.
    near = nears.tolist()
    sets = [
        {
            (r, round((t - near[r]) / 0.01))
            for r, t in zip(s[0].tolist(), s[1].tolist(), strict=True)
        }
        for s in (ours, theirs)
    ]
    assert len(sets[0] ^ sets[1]) <= 0.002 * len(sets[1])
    assert (ours[0].diff() >= 0).all()
    same_ray = ours[0].diff() == 0
    assert (ours[1].diff()[same_ray] > 0).all()


def test_straight_ray_through_a_full_grid():
    grid = estimator()
    rays, starts, ends = grid.sampling(*ray([-3, 0.1, 0.1], [1, 0, 0]), render_step_size=0.1)
    # The lattice starts at 0; midpoints 2.05, 2.15, ..., 3.95 lie in the box.
    torch.testing.assert_close(starts, 2 + 0.1 * torch.arange(20))
    torch.testing.assert_close(ends, starts + 0.1)
    assert not rays.any()


def test_planes_and_per_ray_limits():
    grid = estimator()
    o, d = ray([-3, 0.1, 0.1], [1, 0, 0])
    _, starts, ends = grid.sampling(o, d, near_plane=2.5, far_plane=3.5, render_step_size=0.1)
    torch.testing.assert_close((starts[0], ends[-1]), (torch.tensor(2.5), torch.tensor(3.5)))
    _, starts, ends = grid.sampling(
        o, d, t_min=torch.tensor([2.4]), t_max=torch.tensor([3.0]), render_step_size=0.1
    )
    assert starts[0] == pytest.approx(2.4)
    assert ends[-1] == pytest.approx(3.0, abs=1e-5)


@pytest.mark.parametrize(
    ("origin", "direction"),
    [([-3, 2, 0], [1, 0, 0]), ([-3, 0, 0], [-1, 0, 0]), ([0, 0, 0], [0, 0, 0])],
    ids=["beside", "away", "no direction"],
)
def test_rays_without_samples(origin, direction):
    samples = estimator().sampling(*ray(origin, direction), render_step_size=0.1)
    assert [len(s) for s in samples] == [0, 0, 0]
    assert samples[0].dtype == torch.int64


def test_no_rays_and_an_empty_grid(device):
    grid = estimator(device, occupied=0.0)
    none = torch.empty(0, 3, device=device)
    assert grid.sampling(none, none)[0].shape == (0,)
    o = torch.zeros(5, 3, device=device)
    assert grid.sampling(o, o + 1, sigma_fn=lambda *_: 1 / 0, render_step_size=0.1)[0].shape == (0,)


def test_stratified_shift_is_seeded():
    grid = estimator()
    o, d = ray([-3, 0.1, 0.1], [1, 0, 0])
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(grid.sampling(o, d, render_step_size=0.1, stratified=True)[1])
    assert torch.equal(runs[0], runs[1])
    assert runs[0][0] != runs[2][0]
    offset = runs[0][0] / 0.1 % 1
    assert 0 <= offset < 1


def test_hidden_and_empty_samples_are_dropped():
    grid = estimator()
    grid.occs.fill_(1.0)
    o, d = ray([-3, 0.1, 0.1], [1, 0, 0])

    def wall(starts, ends, rays):
        return torch.where(starts > 2.95, 50.0, 0.0)

    # Opacity 1 - exp(-5) a step: transmittance falls under 1e-4 after two steps.
    _, starts, _ = grid.sampling(o, d, sigma_fn=wall, render_step_size=0.1, alpha_thre=0.01)
    torch.testing.assert_close(starts, torch.tensor([3.0, 3.1]))
    _, starts, _ = grid.sampling(
        o, d, alpha_fn=lambda s, e, r: (s > 2.95) * 0.999, render_step_size=0.1, alpha_thre=0.01
    )
    torch.testing.assert_close(starts, torch.tensor([3.0, 3.1]))
    grid.occs.fill_(0.0)  # the threshold is at most the mean occupancy
    assert len(grid.sampling(o, d, sigma_fn=wall, render_step_size=0.1, alpha_thre=0.01)[1]) == 12


def test_update_finds_the_ball(device):
    grid = OccGridEstimator(BOX, 16).to(device).train()

    def ball(x):
        return (x.norm(dim=-1, keepdim=True) < 0.6).float()

    grid.update_every_n_steps(1, ball)
    assert not grid.binaries.any()
    grid.update_every_n_steps(0, ball)
    inside = 4 / 3 * torch.pi * 0.6**3 / 8
    assert grid.binaries.float().mean().item() == pytest.approx(inside, rel=0.2)
    for step in range(512, 1024, 16):
        grid.update_every_n_steps(step, ball)
    assert grid.binaries.float().mean().item() == pytest.approx(inside, rel=0.5)
    before = grid.occs.clone()
    grid.update_every_n_steps(1024, lambda x: torch.zeros(len(x), 1, device=x.device))
    assert torch.logical_or(
        grid.occs == before, torch.isclose(grid.occs, before * 0.95)
    ).all()  # a cell drawn twice decays once


def test_buffers_have_nerfaccs_names():
    state = OccGridEstimator([0, 0, 0, 1, 1, 2], [2, 3, 4], levels=2).state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == {
        "resolution": (3,),
        "aabbs": (2, 6),
        "occs": (48,),
        "binaries": (2, 2, 3, 4),
    }
    assert state["aabbs"][1].tolist() == [-0.5, -0.5, -1, 1.5, 1.5, 3]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"render_step_size": -0.1}, "render_step_size"),
        ({"cone_angle": -1.0}, "cone_angle"),
        ({"rays_o": torch.zeros(1, 2)}, r"rays_o must have shape \(R, 3\)"),
        ({"rays_d": torch.zeros(2, 3)}, "one shape"),
        ({"rays_d": torch.zeros(1, 3).double()}, "rays_d is torch.float64"),
        ({"sigma_fn": lambda s, e, r: s[:, None], "render_step_size": 0.1}, "one value per sample"),
        ({"sigma_fn": len, "alpha_fn": len}, "not both"),
    ],
)
def test_bad_sampling(unchecked, kwargs, message):
    args = {"rays_o": torch.zeros(1, 3), "rays_d": torch.ones(1, 3), **kwargs}
    with pytest.raises(UserError, match=message):
        estimator().sampling(**args)


def test_bad_grids():
    with pytest.raises(UserError, match="roi_aabb"):
        OccGridEstimator([0, 0, 0, 1, 1, 0])
    with pytest.raises(UserError, match="levels=0"):
        OccGridEstimator(BOX, 4, 0)
    with pytest.raises(UserError, match="training mode"):
        OccGridEstimator(BOX).eval().update_every_n_steps(0, len)
    with pytest.raises(UserError, match="one occupancy per point"):
        OccGridEstimator(BOX, 4).update_every_n_steps(0, lambda x: x)
