"""Cameras: geometry in closed form, batches reproducible by (seed, k)."""

import math

import pytest
import torch

from threestudio_asd.errors import UserError
from threestudio_asd.scene.cameras import camera_batch, orbit_positions
from threestudio_asd.studio import registry
from threestudio_asd.studio.data.random_camera import (
    RandomCameraDataModule,
    RandomCameraIterableDataset,
)

KEYS = {
    "rays_o",
    "rays_d",
    "mvp_mtx",
    "camera_positions",
    "c2w",
    "light_positions",
    "elevation",
    "azimuth",
    "camera_distances",
    "height",
    "width",
    "fovy",
    "proj_mtx",
}
UNPERTURBED = {"camera_perturb": 0.0, "center_perturb": 0.0, "up_perturb": 0.0}


def dataset(seed=0, start_step=0, **cfg) -> RandomCameraIterableDataset:
    return RandomCameraIterableDataset(RandomCameraDataModule(cfg).cfg, seed, start_step)


def view(elevation=0.0, azimuth=0.0, distance=2.0, fovy=60.0, height=5, width=7, normalize=True):
    angles = torch.tensor([elevation]), torch.tensor([azimuth]), torch.tensor([distance])
    positions = orbit_positions(*angles)
    return camera_batch(
        positions=positions,
        targets=torch.zeros(1, 3),
        up=torch.tensor([[0.0, 0.0, 1.0]]),
        fovy_deg=torch.tensor([fovy]),
        elevation_deg=angles[0],
        azimuth_deg=angles[1],
        distances=angles[2],
        light_positions=positions,
        height=height,
        width=width,
        normalize=normalize,
    )


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    assert all(
        torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items()
    )


@pytest.mark.parametrize(
    ("elevation", "azimuth", "direction"),
    [(0.0, 0.0, (1, 0, 0)), (0.0, 90.0, (0, 1, 0)), (90.0, 0.0, (0, 0, 1)), (0.0, 180, (-1, 0, 0))],
)
def test_orbit(elevation, azimuth, direction):
    angles = torch.tensor([elevation]), torch.tensor([float(azimuth)]), torch.tensor([2.0])
    expected = 2 * torch.tensor([direction], dtype=torch.float32)
    torch.testing.assert_close(orbit_positions(*angles), expected, atol=1e-6, rtol=0)


def test_camera_on_x_axis():
    batch = view()
    right, up, backward, position = batch["c2w"][0, :3].T
    torch.testing.assert_close(right, torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(up, torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(backward, torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(position, torch.tensor([2.0, 0.0, 0.0]))


@pytest.mark.parametrize("elevation", [-90.0, -30.0, 0.0, 60.0, 90.0])
def test_c2w_is_rigid_and_mvp_projects_the_origin_to_the_centre(elevation):
    batch = view(elevation=elevation, azimuth=33.0 if abs(elevation) < 90 else 0.0)
    rotation = batch["c2w"][0, :3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-5, rtol=0)
    assert torch.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
    clip = batch["mvp_mtx"][0] @ torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert clip[3] == pytest.approx(2.0, abs=1e-5)  # w is the depth along the optical axis
    torch.testing.assert_close(clip[:2], torch.zeros(2), atol=1e-5, rtol=0)


def test_rays_pass_through_the_centres_of_their_pixels():
    batch = view(elevation=20.0, azimuth=50.0, height=6, width=8)
    points = batch["rays_o"] + 1.7 * batch["rays_d"]
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    clip = homogeneous @ batch["mvp_mtx"][0].T
    x, y = (clip[..., :2] / clip[..., 3:]).unbind(-1)
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    torch.testing.assert_close(x[0], (columns + 0.5) / 8 * 2 - 1, atol=1e-5, rtol=0)
    # y grows downwards in clip space, so row 0 is the top of the image.
    torch.testing.assert_close(y[0], (rows + 0.5) / 6 * 2 - 1, atol=1e-5, rtol=0)
    assert batch["rays_d"][0, 0, 0, 2] > batch["rays_d"][0, -1, 0, 2]


def test_fovy_is_vertical_and_in_radians():
    batch = view(fovy=60.0, height=64, width=128)
    assert batch["fovy"].item() == pytest.approx(math.radians(60))
    focal = 0.5 * 64 / math.tan(math.radians(30))
    top, bottom = batch["rays_d"][0, 0, 64], batch["rays_d"][0, -1, 64]
    slope = [d[2] / -d[0] for d in (top, bottom)]
    assert slope[0].item() == pytest.approx(31.5 / focal, rel=1e-5)
    assert slope[1].item() == pytest.approx(-31.5 / focal, rel=1e-5)


def test_normalize():
    assert torch.allclose(view()["rays_d"].norm(dim=-1), torch.tensor(1.0))
    raw = view(normalize=False)
    axis = -raw["c2w"][0, :3, 2]
    assert torch.allclose(raw["rays_d"] @ axis, torch.tensor(1.0))


def test_near_and_far_planes_reach_the_ends_of_clip_space():
    projection = view()["proj_mtx"][0]
    for depth, expected in [(0.01, -1.0), (100.0, 1.0)]:
        clip = projection @ torch.tensor([0.0, 0.0, -depth, 1.0])
        assert (clip[2] / clip[3]).item() == pytest.approx(expected, abs=1e-4)


def test_training_batch_keys_and_shapes():
    module = RandomCameraDataModule({"batch_size": 3, "height": 8, "width": 12})
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert set(batch) == KEYS
    assert batch["rays_o"].shape == batch["rays_d"].shape == (3, 8, 12, 3)
    for key in ("mvp_mtx", "c2w", "proj_mtx"):
        assert batch[key].shape == (3, 4, 4)
    for key in ("camera_positions", "light_positions"):
        assert batch[key].shape == (3, 3)
    for key in ("elevation", "azimuth", "camera_distances", "fovy"):
        assert batch[key].shape == (3,)
    assert (batch["height"], batch["width"]) == (8, 12)
    assert all(v.dtype == torch.float32 for v in batch.values() if isinstance(v, torch.Tensor))


def test_sampled_values_lie_in_their_ranges():
    data = dataset(batch_size=4, height=2, width=2, **UNPERTURBED)
    batches = [data.batch(k) for k in range(150)]
    elevation, azimuth, distance, fovy, light = (
        torch.cat([b[key] for b in batches])
        for key in ("elevation", "azimuth", "camera_distances", "fovy", "light_positions")
    )
    for values, low, high in [
        (elevation, -10, 90),
        (azimuth, -180, 180),
        (distance, 1, 1.5),
        (fovy, math.radians(40), math.radians(70)),
        (light.norm(dim=-1), 0.8, 1.5),
    ]:
        span = high - low
        assert low - 1e-4 <= values.min() < low + 0.05 * span
        assert high - 0.05 * span < values.max() <= high + 1e-4
    position = torch.cat([b["camera_positions"] for b in batches])
    torch.testing.assert_close(position.norm(dim=-1), distance)
    torch.testing.assert_close(
        torch.rad2deg(torch.asin(position[:, 2] / distance)), elevation, atol=0.1, rtol=0
    )


def test_elevation_is_a_mixture_of_uniform_and_uniform_on_the_sphere():
    data = dataset(elevation_range=(0.0, 90.0), batch_size=64, height=2, width=2)
    sines = torch.stack([torch.deg2rad(data.batch(k)["elevation"]).sin() for k in range(100)])
    # A batch uniform on the sphere has mean sine 1/2; one uniform in angle has 2/pi.
    means = sines.mean(dim=1)
    assert means.mean() == pytest.approx((0.5 + 2 / math.pi) / 2, abs=0.015)
    assert means.std() > 0.06


def test_uniform_azimuth_covers_the_range():
    azimuth = dataset(batch_size=4).batch(0)["azimuth"]
    assert ((azimuth + 180) // 90).tolist() == [0, 1, 2, 3]


def test_perturbations_move_camera_target_and_up():
    still = dataset(batch_size=64, **UNPERTURBED).batch(3)
    moved = dataset(batch_size=64, camera_perturb=0.1, center_perturb=0.2, up_perturb=0.02).batch(3)
    assert torch.equal(still["elevation"], moved["elevation"])
    shift = (moved["camera_positions"] - still["camera_positions"]).abs()
    assert 0.09 < shift.max() <= 0.1
    forward = -moved["c2w"][:, :3, 2]
    depth = -(moved["camera_positions"] * forward).sum(-1, keepdim=True)
    miss = moved["camera_positions"] + depth * forward
    assert 0.1 < miss.norm(dim=-1).mean() < 0.4


def test_batches_depend_on_seed_and_index_only():
    assert_same(dataset(7).batch(5), dataset(7).batch(5))
    torch.manual_seed(123)
    data = dataset(7)
    backwards = {k: data.batch(k) for k in (5, 2, 0)}
    torch.rand(3)
    for k in (0, 2, 5):
        assert_same(dataset(7).batch(k), backwards[k])
    assert not torch.equal(dataset(8).batch(5)["c2w"], dataset(7).batch(5)["c2w"])
    assert not torch.equal(data.batch(4)["c2w"], data.batch(5)["c2w"])


def test_start_step_resumes_the_sequence():
    module = RandomCameraDataModule({"height": 4, "width": 4})
    module.seed, module.start_step = 3, 10
    module.setup("fit")
    resumed = iter(module.train_dataloader())
    reference = dataset(3, height=4, width=4)
    for k in (10, 11, 12):
        assert_same(next(resumed), reference.batch(k))


def test_global_random_state_is_left_alone():
    state = torch.random.get_rng_state()
    dataset().batch(0)
    assert torch.equal(state, torch.random.get_rng_state())


def test_resolution_milestones():
    data = dataset(height=[4, 8], width=[6, 12], batch_size=[2, 1], resolution_milestones=[100])
    assert data.batch(99)["rays_d"].shape == (2, 4, 6, 3)
    assert data.batch(100)["rays_d"].shape == (1, 8, 12, 3)
    assert (data.batch(100)["height"], data.batch(100)["width"]) == (8, 12)


def test_progressive_views_widen_from_the_evaluation_view():
    data = dataset(progressive_until=99, **UNPERTURBED)
    first = data.batch(0)
    assert first["elevation"].item() == pytest.approx(15, abs=1e-4)
    assert first["azimuth"].item() == pytest.approx(0, abs=1e-4)
    assert data.angle_ranges(50) == ((2.5, 52.5), (-90, 90))
    assert data.angle_ranges(100) == data.angle_ranges(5000) == ((-10, 90), (-180, 180))


def test_magic3d_light_is_within_60_degrees_of_the_camera():
    data = dataset(light_sample_strategy="magic3d", batch_size=256, **UNPERTURBED)
    batch = data.batch(0)
    cosine = torch.cosine_similarity(batch["light_positions"], batch["camera_positions"])
    assert cosine.min() >= 0.5 - 1e-5
    assert cosine.min() < 0.6
    distance = batch["light_positions"].norm(dim=-1)
    assert distance.min() >= 0.8 - 1e-5 and distance.max() <= 1.5 + 1e-5


def test_evaluation_views():
    module = RandomCameraDataModule(
        {"n_val_views": 4, "n_test_views": 5, "eval_height": 6, "eval_width": 8}
    )
    module.setup()
    batches = list(module.val_dataloader())
    assert [b["azimuth"].item() for b in batches] == [0, 90, 180, 270]
    assert [b["index"].item() for b in batches] == [0, 1, 2, 3]
    assert set(batches[0]) == KEYS | {"index"}
    assert batches[0]["rays_o"].shape == (1, 6, 8, 3)
    assert (batches[0]["height"], batches[0]["width"]) == (6, 8)
    assert batches[0]["elevation"].item() == 15
    assert torch.equal(batches[0]["light_positions"], batches[0]["camera_positions"])
    assert batches[0]["camera_distances"].item() == 1.5
    tests = [b["azimuth"].item() for b in module.test_dataloader()]
    assert tests == [0, 90, 180, 270, 360]


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"elevation_range": (40.0, 10.0)}, "elevation_range"),
        ({"fovy_range": [40, 200]}, "fovy_range"),
        ({"light_sample_strategy": "sun"}, "dreamfusion"),
        ({"height": [64, 128]}, "resolution_milestones"),
        ({"height": 0}, "positive int"),
        (
            {
                "height": [4, 8, 16],
                "width": [4, 8, 16],
                "batch_size": [1, 1, 1],
                "resolution_milestones": [20, 10],
            },
            "ascending",
        ),
    ],
)
def test_bad_input_is_explained(cfg, words):
    with pytest.raises(UserError, match=words):
        RandomCameraDataModule(cfg).setup("fit")


def test_unknown_key():
    with pytest.raises(TypeError, match="heigth"):
        RandomCameraDataModule({"heigth": 64})


def test_registered():
    assert registry.find("random-camera-datamodule") is RandomCameraDataModule
