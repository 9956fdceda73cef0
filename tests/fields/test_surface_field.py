"""The noise of a ball sticks to it, and is white in every view."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from threestudio_asd.distill import Views
from threestudio_asd.errors import UserError
from threestudio_asd.fields import FixedField, SurfaceField, WorldMapField
from threestudio_asd.fields.surface import surface_corners

SIZE = 32
SHAPE = (4, SIZE, SIZE)


def latents(views):
    return torch.zeros(len(views), *SHAPE)


def where_points_go(views, size):
    """(H, W, 2): where the first view's pixels lie in the second's picture, in [-1, 1]^2."""
    corners, covered = surface_corners(views, size)
    middle = F.avg_pool2d(corners[:1].movedim(-1, 1), 2, stride=1).movedim(1, -1)
    clip = torch.cat([middle, torch.ones_like(middle[..., :1])], -1) @ views.mvp_mtx[1].mT
    # Both a picture's rows and clip space's y grow downwards.
    return clip[0, ..., :2] / clip[0, ..., 3:], covered[0]


def correlation_on_the_surface(field, views):
    """Mean over pixels of both views, the second's brought to where the first has them."""
    at, covered = where_points_go(views, field.size)
    # The second view's pixel that holds the point.
    index = ((at + 1) / 2 * SIZE).floor().long().clamp(0, SIZE - 1)
    middle = (index + 0.5) / SIZE * 2 - 1
    close = ((middle - at).abs() < 0.3 / SIZE).all(-1)  # of a pixel's 2 / SIZE: one footprint
    middle_of_ball = at.norm(dim=-1) < 0.6
    chosen = covered & close & middle_of_ball
    found = field(latents(views), views)
    there = found.noise[1][:, index[..., 1], index[..., 0]]
    assert chosen.sum() > 8
    return (found.noise[0] * there)[:, chosen]


def test_noise_sticks_to_the_surface(views):
    """High where footprints nearly coincide, nothing there for noise that does not follow."""
    two, means = views(0.0, 12.0), {}
    for make in (SurfaceField, FixedField):
        torch.manual_seed(1)
        fields = [make(SHAPE, "cpu") for _ in range(40)]
        products = torch.stack([correlation_on_the_surface(field, two) for field in fields])
        means[make] = products.mean().item()
    assert means[SurfaceField] > 0.55
    assert abs(means[FixedField]) < 0.06


def test_one_view_twice_has_one_noise(views):
    """Equal footprints: a correlation of 1. Nothing was drawn in between."""
    field, twice = SurfaceField(SHAPE, "cpu"), views(33.0, 33.0)
    found = field(latents(twice), twice).noise
    assert found[0].equal(found[1])
    assert field(latents(twice), twice).noise.equal(found)


def test_noise_is_standard_and_independent_between_pixels(views):
    view = views(20.0)
    fields = [SurfaceField(SHAPE, "cpu") for _ in range(150)]
    noise = torch.cat([field(latents(view), view).noise for field in fields])
    draws = noise.flatten(0, 1).flatten(1).double()  # fields and channels x pixels
    n = len(draws)
    assert abs(draws.var(correction=0).item() - 1) < 0.01
    among = draws.T @ draws / n
    error = among - torch.eye(SIZE**2).double()
    assert error.abs().max() < 7 * (2 / n) ** 0.5
    # As of independent numbers: a variance of 1 / n off the diagonal.
    off = error[~torch.eye(SIZE**2).bool()]
    assert off.square().mean().item() * n == pytest.approx(1.0, abs=0.03)
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean().item()
    assert abs(neighbours) < 5 / (noise.numel() ** 0.5)


def test_beside_the_ball_is_the_background(views):
    view = views(0.0, 90.0)
    field = SurfaceField(SHAPE, "cpu")
    _, covered = surface_corners(view, field.size)
    assert 0.2 < covered.float().mean() < 0.6
    found = field(latents(view), view)
    assert found.held.all()
    for noise, on_ball in zip(found.noise, covered, strict=True):
        assert noise[:, ~on_ball].equal(field.background[0][:, ~on_ball])
        assert (noise[:, on_ball] != field.background[0][:, on_ball]).float().mean() > 0.99
    fresh = SurfaceField(SHAPE, "cpu", fix_background=False)
    assert fresh(latents(view), view).held[:, 0].equal(covered)


def test_a_render_of_any_resolution_gives_the_same_surface(views):
    """The noise is that of the surface, not of the render's pixels."""
    field = SurfaceField(SHAPE, "cpu")
    found = {}
    for resolution in (64, 256):
        view = views(0.0, resolution=resolution)
        found[resolution] = field(latents(view), view).noise[0]
        corners, covered = surface_corners(view, field.size)
        on = covered[0, 8:-8, 8:-8]
        radii = corners[0, 8:-9, 8:-9][on].norm(dim=-1)
        torch.testing.assert_close(radii, torch.full_like(radii, 0.7), rtol=0, atol=0.01)
    inner = (slice(None), slice(10, -10), slice(10, -10))
    coarse, fine = found[64][inner], found[256][inner]
    assert F.cosine_similarity(coarse.flatten(), fine.flatten(), dim=0) > 0.8


def test_thin_air_is_no_surface(views):
    view = views(0.0)
    assert surface_corners(view, (SIZE, SIZE))[1].any()
    haze = replace(view, opacity=0.09 * view.opacity, depth=0.09 * view.depth)
    assert not surface_corners(haze, (SIZE, SIZE))[1].any()
    glass = replace(view, opacity=0.2 * view.opacity, depth=0.2 * view.depth)
    torch.testing.assert_close(
        surface_corners(glass, (SIZE, SIZE))[0], surface_corners(view, (SIZE, SIZE))[0]
    )


def test_a_map_shifts_with_the_camera(views):
    """A column of 32 is 5.6 degrees of azimuth, where the whole picture shows the ball."""
    two = views(0.0, 45.0, distance=1.2)
    assert two.opacity.mean(dim=(1, 2, 3)).min() > 0.9
    field = WorldMapField(SHAPE, "cpu")
    found = field(latents(two), two).noise
    middle = slice(12, 20)
    assert found[0][:, middle, 8 + 4 : 24].equal(found[1][:, middle, 4:16])


@pytest.mark.parametrize("gone", [("depth",), ("opacity", "depth"), ("rays_o", "rays_d")])
def test_a_batch_without_a_surface_is_told(seen, gone):
    batch = {key: value for key, value in seen(0.0).items() if key not in gone}
    view = Views.of(batch)
    with pytest.raises(UserError, match="'surface-noise' lies on the surface") as told:
        SurfaceField(SHAPE, "cpu")(latents(view), view)
    assert all(name in str(told.value) for name in gone)
    assert "nerf-volume-renderer" in str(told.value) and "fixed-noise" in str(told.value)
    if "opacity" in gone:
        with pytest.raises(UserError, match=r"'world-map'.*opacity.*fixed-noise"):
            WorldMapField(SHAPE, "cpu")(latents(view), view)
