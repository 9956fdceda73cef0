"""Several views of each scene: closed forms, what a scene shares, batches by (seed, k) alone."""

import math

import pytest
import torch

from threestudio_asd.errors import UserError
from threestudio_asd.studio import registry
from threestudio_asd.studio.data.multiview_camera import RandomMultiviewCameraDataModule

V = 4
STILL = {"camera_perturb": 0.0, "center_perturb": 0.0, "up_perturb": 0.0}
SMALL = {"n_view": V, "batch_size": 3 * V, "height": 4, "width": 4}


def module(seed=0, start_step=0, **cfg):
    found = RandomMultiviewCameraDataModule({**SMALL, **cfg})
    found.seed, found.start_step = seed, start_step
    found.setup("fit")
    return found


def batch(k=0, seed=0, **cfg):
    return module(seed, **cfg).train_dataset.batch(k)


def scenes(values):
    """(S, V, ...)."""
    return values.unflatten(0, (-1, V))


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(
        torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items()
    )


def test_registered():
    name = "mvdream-random-multiview-camera-datamodule"
    assert registry.find(name) is RandomMultiviewCameraDataModule


@pytest.mark.parametrize("k", range(4))
def test_azimuths_of_a_scene_stand_at_equal_distances(k):
    low, high = -120.0, 200.0
    azimuth = scenes(batch(k, azimuth_range=(low, high))["azimuth"])
    torch.testing.assert_close(azimuth.diff(dim=1), torch.full((3, V - 1), (high - low) / V))
    first = azimuth[:, 0]
    assert (low <= first).all() and (first < low + (high - low) / V).all()
    assert first.unique().numel() == 3  # each scene begins elsewhere


def test_first_azimuths_are_uniform():
    first = torch.cat([scenes(batch(k)["azimuth"])[:, 0] for k in range(300)])
    u = (first + 180) / (360 / V)
    assert u.mean() == pytest.approx(0.5, abs=0.03) and u.var() == pytest.approx(1 / 12, abs=0.01)


@pytest.mark.parametrize("k", range(4))
def test_a_scene_shares_everything_but_the_azimuth(k):
    found = batch(k, zoom_range=(0.5, 1.0), camera_perturb=0.1)
    for key in ("elevation", "camera_distances", "fovy"):
        values = scenes(found[key])
        assert torch.equal(values, values[:, :1].expand_as(values))
        assert values[:, 0].unique().numel() == 3
    # So is the shift of its cameras from their orbit.
    still = batch(k, zoom_range=(0.5, 1.0), **STILL)
    shift = scenes(found["camera_positions"] - still["camera_positions"])
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-5, rtol=0)
    assert 0 < shift.abs().max() <= 0.1 + 1e-5


def test_relative_distances_frame_the_same_height():
    """distance tan(fovy / 2) is the half height of the frame at the origin."""
    ranges = {"camera_distance_range": (0.8, 1.0), "fovy_range": (15, 60), **STILL}
    found, apart = (batch(relative_radius=relative, **ranges) for relative in (True, False))
    half = found["camera_distances"] * torch.tan(found["fovy"] / 2)
    assert half.min() >= 0.8 - 1e-5 and half.max() <= 1.0 + 1e-5
    torch.testing.assert_close(found["camera_positions"].norm(dim=-1), found["camera_distances"])
    # Otherwise the same draws are distances themselves.
    torch.testing.assert_close(apart["camera_distances"], half)
    assert torch.equal(apart["fovy"], found["fovy"])


def test_zoom_narrows_the_view_and_leaves_the_camera_where_it_is():
    plain, zoomed = batch(**STILL), batch(zoom_range=(0.5, 0.5), **STILL)
    torch.testing.assert_close(zoomed["fovy"], 0.5 * plain["fovy"])
    assert torch.equal(zoomed["camera_positions"], plain["camera_positions"])
    assert torch.equal(zoomed["camera_distances"], plain["camera_distances"])


def test_cameras_look_at_the_origin_with_the_horizon_level():
    found = batch(**STILL)
    right, up, backward, position = found["c2w"][:, :3].unbind(-1)
    torch.testing.assert_close(position, found["camera_positions"])
    towards = position / position.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(backward, towards, atol=1e-5, rtol=0)
    assert right[:, 2].abs().max() < 1e-5 and (up[:, 2] > 0).all()
    azimuth = torch.rad2deg(torch.atan2(position[:, 1], position[:, 0]))
    apart = (azimuth - found["azimuth"] + 180) % 360 - 180
    assert apart.abs().max() < 1e-2
    assert found["fovy"].max() <= math.radians(70)


@pytest.mark.parametrize("strategy", ["dreamfusion", "magic3d"])
def test_the_light_follows_each_camera_by_the_same_draws(strategy):
    """Turned back by its azimuth, each view of a scene has the same light (but for the direction
    that dreamfusion adds in the world's axes, which vanishes here)."""
    still = {**STILL, "light_position_perturb": 0.0, "elevation_range": (10.0, 40.0)}
    found = batch(light_sample_strategy=strategy, **still)
    angle = torch.deg2rad(found["azimuth"])
    x, y, z = found["light_positions"].unbind(-1)
    turned = torch.stack(
        [angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x, z], dim=-1
    )
    turned = scenes(turned)
    torch.testing.assert_close(turned, turned[:, :1].expand_as(turned), atol=1e-4, rtol=0)
    assert turned[:, 0].unique(dim=0).shape[0] == 3


def test_the_light_moves_by_one_direction_a_scene():
    found = batch(light_position_perturb=1e5, light_distance_range=(1.0, 1.0))
    light = scenes(found["light_positions"])
    torch.testing.assert_close(light, light[:, :1].expand_as(light), atol=1e-3, rtol=0)


def test_batches_depend_on_seed_and_index_only():
    assert_same(batch(5, seed=7), batch(5, seed=7))
    data = module(7).train_dataset
    backwards = {k: data.batch(k) for k in (5, 2, 0)}
    state = torch.random.get_rng_state()
    for k in (0, 2, 5):
        assert_same(module(7).train_dataset.batch(k), backwards[k])
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(batch(5, seed=8)["c2w"], backwards[5]["c2w"])
    assert not torch.equal(backwards[2]["c2w"], backwards[5]["c2w"])


def test_a_resumed_run_sees_the_next_batches():
    resumed = iter(module(3, start_step=10).train_dataloader())
    reference = module(3).train_dataset
    for k in (10, 11, 12):
        assert_same(next(resumed), reference.batch(k))


def test_resolution_stages_have_whole_scenes_each():
    stages = {"batch_size": [8, 4], "height": [4, 8], "width": [4, 8]}
    data = module(resolution_milestones=[100], **stages).train_dataset
    assert data.batch(99)["rays_d"].shape == (8, 4, 4, 3)
    assert data.batch(100)["rays_d"].shape == (4, 8, 8, 3)


def test_evaluation_is_that_of_single_views():
    data = module(n_val_views=4, eval_camera_distance=3.0, eval_fovy_deg=40.0)
    batches = list(data.val_dataloader())
    assert [b["azimuth"].item() for b in batches] == [0, 90, 180, 270]
    assert {b["camera_distances"].item() for b in batches} == {3.0}


def test_ranges_widen_as_those_of_single_views():
    first = batch(0, progressive_until=99, **STILL)
    assert first["elevation"].tolist() == pytest.approx([15.0] * 12, abs=1e-3)
    assert first["azimuth"].tolist() == pytest.approx([0.0] * 12, abs=1e-3)


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"batch_size": 6}, r"data.batch_size is 6, and 6 is no multiple of data.n_view=4"),
        ({"batch_size": [8, 2]}, r"data.batch_size is \[8, 2\], and 2 is no multiple"),
        ({"n_view": 0}, "data.n_view is 0"),
        ({"batch_size": 0}, "positive int"),
        ({"zoom_range": (1.0, 0.5)}, "data.zoom_range"),
        ({"zoom_range": (1.0, 3.0)}, "below 180"),
        ({"fovy_range": (0, 60)}, "relative_radius"),
        ({"elevation_range": (40.0, 10.0)}, "elevation_range"),
    ],
)
def test_bad_input_is_explained_before_anything_is_drawn(cfg, words):
    with pytest.raises(UserError, match=words):
        RandomMultiviewCameraDataModule({**SMALL, **cfg})
