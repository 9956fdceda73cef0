"""Rasterisation against brute force, fill rule and gradients."""

import pytest
import torch
from meshes import project, soup, sphere
from torch.autograd import grad, gradcheck
from waits import Waits

from threestudio_asd.errors import UserError
from threestudio_asd.kernels import rasterize as module
from threestudio_asd.kernels.antialias import antialias
from threestudio_asd.kernels.interpolate import interpolate, interpolate_reference
from threestudio_asd.kernels.rasterize import Triangles, rasterize, rasterize_reference

KINDS = ["plain", "clipped", "degenerate", "off-screen"]


def brute_force(pos, tri, height, width):
    """(H, W, 4) by a linear system per pixel and triangle: weights of the corners that give p."""
    y, x = torch.meshgrid(
        *((2 * torch.arange(n, dtype=torch.float64) + 1 - n) / n for n in (height, width)),
        indexing="ij",
    )
    centres = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(-1, 3)
    corners = pos[tri.long()]
    spatial = corners[..., [0, 1, 3]].mT
    solid = torch.linalg.cond(spatial) < 1e12
    spatial = torch.where(solid[:, None, None], spatial, torch.eye(3, dtype=pos.dtype))
    weights = torch.linalg.solve(spatial[:, None], centres[None, :, :, None])[..., 0]
    z = (weights * corners[:, None, :, 2]).sum(-1)
    seen = (weights >= 0).all(-1) & (z.abs() <= 1) & solid[:, None]
    z = z.where(seen, torch.inf)
    nearest, index = z.min(0)
    uv = weights[index, torch.arange(len(centres))]
    uv = uv[:, :2] / uv.sum(-1, keepdim=True)
    out = torch.cat([uv, nearest[:, None], index[:, None] + 1], dim=-1)
    return out.where(seen.any(0)[:, None], 0).view(height, width, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_soups_equal_brute_force(device, kind, dtype):
    pos, tri = soup(kind, 200, images=2)
    expected = torch.stack([brute_force(p, tri, 40, 56) for p in pos])
    rast, _ = rasterize(pos.to(device, dtype), tri.to(device), (40, 56))
    shown = expected[..., 3] > 0
    assert shown.double().mean() > 0.2
    assert len(expected[..., 3].unique()) > 40
    torch.testing.assert_close(rast[..., 3].cpu().double(), expected[..., 3], atol=0.0, rtol=0.0)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(rast.cpu().double(), expected, atol=tolerance, rtol=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_soups_equal_the_reference(device, kind):
    pos, tri = soup(kind, 60, images=2)
    pos, tri = pos.to(device), tri.to(device)
    for ours, theirs in zip(
        rasterize(pos, tri, (24, 17)), rasterize_reference(pos, tri, (24, 17)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def times_drawn(pos, tri, resolution):
    """How many triangles cover each pixel: every triangle alone in an image."""
    alone = torch.stack([torch.arange(len(tri)), torch.ones(len(tri), dtype=torch.long)], dim=-1)
    rast, _ = rasterize(pos, tri, resolution, ranges=alone)
    return (rast[..., 3] > 0).sum(0)


def grid_mesh(n, corners):
    """Triangles over n x n quads of vertices (n+1)^2, diagonals and windings at random."""
    faces = []
    for k in range(n * n):
        a = k // n * (n + 1) + k % n
        b, c, d = a + 1, a + n + 2, a + n + 1
        pair = [[a, b, c], [a, c, d]] if torch.rand(1) < 0.5 else [[a, b, d], [b, c, d]]
        faces += [f[::-1] if torch.rand(1) < 0.5 else f for f in pair]
    y, x = torch.meshgrid(corners, corners, indexing="ij")
    return torch.stack([x, y], dim=-1).view(-1, 2), torch.tensor(faces, dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [16, 12, 15])
@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_shared_edges_are_drawn_exactly_once(device, size, jitter, dtype):
    """Without jitter all vertices lie on pixels' centres, and diagonals run through centres."""
    n = size // 2 + 1
    # In units of half pixels, so exact: w = size.
    xy, tri = grid_mesh(n, 4 * torch.arange(n + 1.0) - size - 1)
    inner = (xy.abs() < size).all(-1, keepdim=True)
    xy = xy + jitter * (2 * torch.rand_like(xy) - 1) * inner
    pos = torch.cat([xy, torch.zeros(len(xy), 1), torch.full((len(xy), 1), float(size))], dim=-1)
    # Any multiple of a vertex is the same point; powers of two are exact.
    pos = pos * 2.0 ** torch.randint(-3, 4, (len(xy), 1))
    drawn = times_drawn(pos.to(device, dtype), tri.to(device), (size, size))
    assert (drawn == 1).all(), drawn


def test_a_fan_around_a_centre_is_drawn_exactly_once(device):
    around = torch.rand(40, 1).sort(0).values * 2 * torch.pi
    rim = 4 * torch.cat([around.cos(), around.sin()], dim=-1)
    centre = torch.tensor([[3 / 16, -5 / 16]])
    xy = torch.cat([rim + centre, centre])
    pos = torch.nn.functional.pad(xy, (0, 1))
    pos = torch.nn.functional.pad(pos, (0, 1), value=1.0).to(device)
    k = torch.arange(40)
    tri = torch.stack([k, (k + 1) % 40, torch.full_like(k, 40)], dim=-1).int().to(device)
    assert (times_drawn(pos, tri, (16, 16)) == 1).all()


def test_a_plane_through_the_eye_has_no_cracks(device):
    """A floor in pieces, many of them behind the eye: what one large triangle pair shows."""
    xy, tri = grid_mesh(12, torch.linspace(-6.0, 6.0, 13))
    pos = torch.stack([xy[:, 0], -0.7 - 0.1 * xy[:, 0], 0.9 * xy[:, 1] - 0.1, xy[:, 1]], dim=-1)
    whole = pos[[0, 12, 168, 156]].to(device)
    two = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32, device=device)
    drawn = times_drawn(pos.to(device), tri.to(device), (64, 48))
    rast, _ = rasterize(whole[None], two, (64, 48))
    assert 0.1 < drawn.double().mean() < 0.6
    torch.testing.assert_close(drawn, (rast[0, ..., 3] > 0).long())


def test_conventions(device):
    """Row 0 is y = -1; u belongs to the first corner; both windings are drawn; nearer wins."""
    corners = [[-1.0, -1, 0, 1], [0, -1, 0, 1], [-1, 0, 0, 1]]
    near = [[x, y, -0.5, w] for x, y, _, w in corners]
    pos = torch.tensor([corners + near], device=device)
    tri = torch.tensor([[0, 2, 1], [3, 4, 5]], dtype=torch.int32, device=device)
    rast, _ = rasterize(pos, tri, (8, 8))
    assert rast[0, 0, 0, 3] == 2
    assert rast[0, 0, 0, 0] == 0.75
    torch.testing.assert_close(rast[0, 0, 0, 2], torch.tensor(-0.5, device=device))
    assert rast[0, 4:].abs().max() == 0
    behind, _ = rasterize(pos, tri[:1], (8, 8))
    assert behind[0, 0, 0, 3] == 1
    again, _ = rasterize(pos, tri[[1, 1]], (8, 8))  # equal depths
    assert again[0, 0, 0, 3] == 1


@pytest.mark.parametrize("kind", ["plain", "clipped"])
def test_gradients_equal_finite_differences(device, kind):
    pos, tri = soup(kind, 12)
    pos, tri = pos.to(device).requires_grad_(), tri.to(device)

    def draw(pos):
        rast, rast_db = rasterize(pos, tri, (9, 7))
        return rast[..., :2], rast_db

    assert gradcheck(draw, pos, atol=1e-4, rtol=1e-4, nondet_tol=1e-9)


def test_single_precision_gradients(device):
    vertices, tri = sphere()
    tri, attr = tri.to(device), torch.rand(len(vertices), 3, dtype=torch.float64, device=device)
    weights = torch.randn(1, 48, 48, 3, dtype=torch.float64, device=device)

    def slope(dtype):
        pos = project(vertices).float().to(device, dtype).requires_grad_()
        rast, _ = rasterize(pos, tri, (48, 48))
        image, _ = interpolate(attr[None].to(dtype), rast, tri)
        return grad((image * weights.to(dtype)).sum(), pos)[0].double()

    exact = slope(torch.float64)
    assert (slope(torch.float32) - exact).norm() < 1e-3 * exact.norm()


def test_interpolation(device):
    pos, tri = soup("clipped", 30, images=2)
    pos, tri = pos.to(device), tri.to(device)
    rast, rast_db = rasterize(pos, tri, (20, 12))
    attr = torch.randn(1, pos.shape[1], 3, dtype=pos.dtype, device=device)
    inputs = [t.requires_grad_() for t in (attr, rast)]
    ours, slopes = interpolate(attr, rast, tri, rast_db, diff_attrs=[2, 0])
    theirs = interpolate_reference(attr, rast, tri)
    torch.testing.assert_close(ours, theirs)
    g = torch.randn_like(ours)
    for a, b in zip(grad(ours, inputs, g), grad(theirs, inputs, g), strict=True):
        torch.testing.assert_close(a, b)
    # The derivative of the first channel asked for, by a step of the image towards -x and -y.
    eps = 1e-6
    for axis in (0, 1):
        size = (12, 20)[axis]
        moved = pos.clone()
        moved[..., axis] -= eps * 2 / size * pos[..., 3]
        there, _ = interpolate(attr, rasterize(moved, tri, (20, 12))[0], tri)
        step = (there - ours)[..., 2] / eps
        torch.testing.assert_close(slopes[..., axis], step, atol=1e-3, rtol=1e-3)


def test_threads_do_not_change_the_result(monkeypatch):
    torch.manual_seed(0)
    pos, tri = soup("plain", 100, images=2, dtype=torch.float32)
    pos.requires_grad_()
    attr = torch.randn(1, pos.shape[1], 2, requires_grad=True)

    def run():
        rast, _ = rasterize(pos, tri, (31, 40))
        image, _ = interpolate(attr, rast, tri)
        return rast, *grad(image.square().sum(), (pos, attr))

    single = run()
    monkeypatch.setattr(module, "threads_for", lambda *_: 3)
    for a, b in zip(single, run(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_nothing_to_draw(device):
    pos = torch.zeros(1, 3, 4, device=device, requires_grad=True)
    none = torch.empty(0, 3, dtype=torch.int32, device=device)
    bad = torch.full_like(pos, torch.nan)
    flat = torch.tensor([[0, 1, 2]], dtype=torch.int32, device=device)
    for vertices, tri in ((pos, none), (pos, flat), (bad, flat), (bad * 0 + torch.inf, flat)):
        rast, rast_db = rasterize(vertices, tri, (4, 4))
        assert rast.abs().max() == rast_db.abs().max() == 0
    rast, _ = rasterize(pos, flat, (4, 4))
    assert grad(rast.sum(), pos)[0].abs().max() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": torch.zeros(3, 4)}, r"\(B, Nv, 4\), or \(Nv, 4\) with ranges"),
        ({"pos": torch.zeros(1, 3, 4).half()}, "float32 or float64"),
        ({"tri": torch.zeros(1, 3).long()}, r"tri\.int\(\)"),
        ({"tri": torch.tensor([[0, 1, 3]]).int()}, r"0\.\.2, got 0\.\.3"),
        ({"tri": torch.zeros(1, 4).int()}, r"\(Nt, 3\)"),
        ({"resolution": (0, 4)}, "height, width"),
        ({"pos": torch.zeros(3, 4), "ranges": torch.tensor([[0, 2]])}, "within 1 triangles"),
    ],
)
def test_bad_arguments(unchecked, change, message):
    args = {"pos": torch.zeros(1, 3, 4), "tri": torch.tensor([[0, 1, 2]]).int()}
    with pytest.raises(UserError, match=message):
        rasterize(**{"resolution": (4, 4), **args, **change})


def test_known_triangles_are_not_looked_at_again():
    torch.manual_seed(0)
    pos, tri = soup("plain", 30, images=2, dtype=torch.float32)
    color = torch.rand(2, 8, 9, 3)

    def run(tri):
        with Waits() as waits:
            rast, _ = rasterize(pos, tri, (8, 9))
            values, _ = interpolate(pos, rast, tri)
            smooth = antialias(color, rast, pos, tri)
        return (rast, values, smooth), waits.count

    expected, looks = run(tri)
    assert looks == 3
    found, looks = run(Triangles.checked(tri, pos.shape[1], pos.device))
    assert looks == 0
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)


def test_known_triangles_of_other_vertices_are_refused():
    known = Triangles.checked(torch.tensor([[0, 1, 3]]).int(), 4, torch.device("cpu"))
    with pytest.raises(UserError, match="triangles of 4 vertices on cpu, but there are 3"):
        rasterize(torch.zeros(1, 3, 4), known, (4, 4))
    with pytest.raises(UserError, match=r"0\.\.2, got 0\.\.3"):
        Triangles.checked(known.corners, 3, torch.device("cpu"))
