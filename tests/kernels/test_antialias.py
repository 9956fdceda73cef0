"""Edge antialiasing against its reference, finite differences and areas."""

import math

import pytest
import torch
from meshes import project, soup, sphere
from torch.autograd import grad, gradcheck

from threestudio_asd.errors import UserError
from threestudio_asd.kernels import rasterize as module
from threestudio_asd.kernels.antialias import antialias, antialias_reference, edge_links
from threestudio_asd.kernels.interpolate import interpolate
from threestudio_asd.kernels.rasterize import rasterize


def strip(kind):
    """Triangles that share vertices, most of them folded over others: pos, tri."""
    pos, _ = soup(kind, 6, images=2)
    ends = torch.arange(16)
    return pos, torch.stack([ends, ends + 1, (ends * 5 + 2) % 18], dim=-1).int()


def silhouette(pos, tri, resolution):
    """The antialiased mask (B, H, W, 1)."""
    rast, _ = rasterize(pos, tri, resolution)
    return antialias((rast[..., 3:] > 0).to(pos), rast, pos, tri)


@pytest.mark.parametrize("kind", ["plain", "clipped"])
def test_equals_the_reference(device, kind):
    pos, tri = strip(kind)
    pos, tri = pos.to(device).requires_grad_(), tri.to(device)
    rast, _ = rasterize(pos.detach(), tri, (22, 26))
    color = torch.randn(2, 22, 26, 3, dtype=pos.dtype, device=device, requires_grad=True)
    ours, theirs = (f(color, rast, pos, tri) for f in (antialias, antialias_reference))
    assert ((ours - color).abs().sum(-1) > 0).double().mean() > 0.05
    torch.testing.assert_close(ours, theirs)
    g = torch.randn_like(ours)
    for a, b in zip(grad(ours, (color, pos), g), grad(theirs, (color, pos), g), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["plain", "clipped"])
def test_gradients_equal_finite_differences(device, kind):
    """Through rasterising, interpolating and antialiasing at once, and the colours alone."""
    pos, tri = strip(kind)
    pos, tri = pos[:1].to(device).requires_grad_(), tri.to(device)
    attr = torch.randn(1, pos.shape[1], 1, dtype=pos.dtype, device=device, requires_grad=True)

    def draw(pos, attr):
        rast, _ = rasterize(pos, tri, (10, 12))
        image, _ = interpolate(attr, rast, tri)
        return antialias(image, rast, pos, tri)

    assert gradcheck(draw, (pos, attr), eps=1e-7, atol=1e-4, rtol=1e-4, nondet_tol=1e-6)
    rast, _ = rasterize(pos.detach(), tri, (10, 12))
    color = torch.rand(1, 10, 12, 2, dtype=pos.dtype, device=device, requires_grad=True)
    assert gradcheck(lambda c: antialias(c, rast, pos.detach(), tri), color)


def test_single_precision_gradients(device):
    """A mesh's outline and its shading, in float32, against differences in float64."""
    vertices, tri = sphere()
    tri, attr = tri.to(device), torch.rand(1, len(vertices), 2, dtype=torch.float64, device=device)
    weight = torch.randn(1, 40, 40, 2, dtype=torch.float64, device=device)
    pos = (project(vertices) + torch.tensor([0.03, 0.02, 0, 0])).float().to(device)

    def brightness(pos):
        rast, _ = rasterize(pos, tri, (40, 40))
        image, _ = interpolate(attr.to(pos), rast, tri)
        return (antialias(image, rast, pos, tri) * weight.to(pos)).sum()

    pos.requires_grad_()
    slope = grad(brightness(pos), pos)[0].double()
    exact = pos.detach().double()
    for _ in range(5):
        step = 1e-7 * torch.randn_like(exact)
        change = brightness(exact + step) - brightness(exact - step)
        torch.testing.assert_close((slope * 2 * step).sum(), change, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_add_up_across_pixels(device, dtype):
    """The silhouette grows over many pixels' centres by the sum of its derivatives."""
    vertices, tri = sphere()
    tri, weight = tri.to(device), torch.rand(1, 32, 32, 1, dtype=dtype, device=device)
    shift = torch.tensor([0.013, 0.004, 0.0], dtype=torch.float64)

    def brightness(radius):
        pos = project(radius * vertices + shift).to(device, dtype)
        return (silhouette(pos, tri, (32, 32)) * weight).sum()

    radii = torch.linspace(1.0, 1.3, 61, dtype=torch.float64)
    slopes = []
    for radius in (radii[1:] + radii[:-1]) / 2:
        radius.requires_grad_()
        slopes.append(grad(brightness(radius), radius)[0])
    grown = brightness(radii[-1]) - brightness(radii[0])
    mean = torch.stack(slopes).mean() * 0.3
    torch.testing.assert_close(mean.item(), grown.item(), rtol=0.05, atol=0.0)


@pytest.mark.parametrize(("rings", "size"), [(12, 96), (24, 96), (48, 24)])
def test_the_area_of_a_disc_and_its_derivative(device, rings, size):
    """The sum over the mask is an area in pixels: pi r^2 for a sphere's outline of radius r.

    The last sphere turns away in triangles of a tenth of a pixel.
    """
    vertices, tri = sphere(rings)
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    flat = torch.tensor([0.7, 0.7, -0.2], dtype=torch.float64)
    corner = torch.tensor([0.011, 0.017, 0.0], dtype=torch.float64)
    pos = torch.nn.functional.pad(scale * flat * vertices + corner, (0, 1), value=1.0)[None]
    area = silhouette(pos.to(device), tri.to(device), (size, size)).sum()
    radius = 0.6 * 0.7 * size / 2
    polygon = math.sin(math.pi / rings) / (math.pi / rings)  # of 2 rings sides
    expected = math.pi * radius**2 * polygon
    torch.testing.assert_close(area.item(), expected, rtol=5e-3, atol=0.0)
    (slope,) = grad(area, scale)
    torch.testing.assert_close(slope.item(), 2 * expected, rtol=5e-2, atol=0.0)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("end", [-0.437, 0.0, 0.125, 0.31])
def test_a_straight_edge_is_exact(device, axis, end):
    """A half plane up to ``end``: every row has exactly its length."""
    corners = torch.tensor([[-3.0, -3, 0, 1], [end, -3, 0, 1], [end, 3, 0, 1], [-3, 3, 0, 1]])
    corners = corners.to(device, torch.float64)
    if axis == 1:
        corners = corners[:, [1, 0, 2, 3]]
    pos = (corners * torch.tensor([[1.0], [2.0], [0.5], [4.0]], device=device))[None]
    pos.requires_grad_()
    tri = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32, device=device)
    mask = silhouette(pos, tri, (16, 16))[0, ..., 0]
    lengths = mask.sum(1 - axis)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 8 * (end + 1)))
    (g,) = grad(mask.sum(), pos)
    # 16 lines, each 8 pixels longer where x / w of both corners grows by 1.
    total = (g[0, :, axis] * pos[0, :, 3])[1:3].sum()
    torch.testing.assert_close(total.item(), 128.0)


def test_edges_inside_a_surface_stay(device):
    """Colours of neighbouring faces do not mix, except where one hides the other."""
    vertices, tri = sphere()
    pos, tri = project(vertices).to(device), tri.to(device)
    rast, _ = rasterize(pos, tri, (64, 64))
    color = torch.rand(len(tri) + 1, 3, dtype=pos.dtype, device=device)[rast[..., 3].long()]
    changed = (antialias(color, rast, pos, tri) != color).any(-1)[0]
    inside = rast[0, ..., 3] > 0
    border = torch.zeros_like(inside)
    for axis in (0, 1):
        edge = inside.long().diff(dim=axis) != 0
        low, high = (torch.zeros_like(inside) for _ in range(2))
        low.narrow(axis, 0, 63).copy_(edge)
        high.narrow(axis, 1, 63).copy_(edge)
        border |= low | high
    assert changed.any()
    assert not (changed & ~border).any()


def test_links_are_rings_of_the_same_edge():
    tri = torch.tensor([[0, 1, 2], [2, 1, 3], [1, 2, 4], [5, 6, 7], [0, 0, 1]]).int()
    links = edge_links(tri).tolist()

    def ring(start):
        found, at = [start], links[start]
        while at != start:
            found.append(at)
            at = links[at]
        return sorted(found)

    assert ring(0) == ring(5) == ring(8) == [0, 5, 8]
    assert ring(9) == [9]
    # The edges 0-1: of the first triangle, and two of the degenerate one.
    assert ring(2) == [2, 12, 13]
    assert sorted(links) == list(range(15))
    assert edge_links(tri[:0]).shape == (0,)


def test_links_may_be_kept_and_threads_do_not_matter(monkeypatch):
    torch.manual_seed(0)
    pos, tri = strip("plain")
    pos.requires_grad_()
    rast, _ = rasterize(pos.detach(), tri, (22, 26))
    color = torch.rand(2, 22, 26, 2, dtype=pos.dtype, requires_grad=True)

    def run(**kept):
        out = antialias(color, rast, pos, tri, **kept)
        return out, *grad(out.square().sum(), (color, pos))

    expected = run()
    monkeypatch.setattr(module, "threads_for", lambda *_: 3)
    for a, b in zip(expected, run(links=edge_links(tri)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"color": torch.zeros(1, 4, 5, 1)}, "color and pos must have the images of rast"),
        ({"color": torch.zeros(1, 4, 4, 1).double()}, "color is torch.float64"),
        ({"pos": torch.zeros(2, 3, 4)}, "color and pos must have the images of rast"),
        ({"tri": torch.tensor([[0, 1, 9]]).int()}, r"0\.\.2, got 0\.\.9"),
        ({"links": torch.zeros(2).int()}, "edge_links"),
    ],
)
def test_bad_arguments(unchecked, change, message):
    args = {
        "color": torch.zeros(1, 4, 4, 1),
        "rast": torch.zeros(1, 4, 4, 4),
        "pos": torch.zeros(1, 3, 4),
        "tri": torch.tensor([[0, 1, 2]]).int(),
    }
    with pytest.raises(UserError, match=message):
        antialias(**{**args, **change})
