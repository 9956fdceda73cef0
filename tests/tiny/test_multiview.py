"""A teacher of several views: its scenes, its start from the single-view UNet, its measure."""

import pytest
import torch

from threestudio_asd.teachers.views import camera_labels
from threestudio_asd.tiny.dataset import build_scenes, scene_cameras
from threestudio_asd.tiny.random_sd import random_unet
from threestudio_asd.tiny.render import render
from threestudio_asd.tiny.train.measure_views import obeyed, silhouettes
from threestudio_asd.tiny.train.multiview import TextToViews, with_camera_embedding


def test_the_cameras_of_a_scene_go_around_it():
    cameras = scene_cameras(5, 4, torch.Generator().manual_seed(0))
    azimuth = cameras["azimuth"].view(5, 4)
    turns = (azimuth - azimuth[:, :1]) % 360
    assert torch.allclose(turns, torch.tensor([0.0, 90, 180, 270]).expand(5, 4), atol=1e-3)
    assert azimuth.abs().max() <= 180 and azimuth[:, 0].std() > 30
    for name in ("elevation", "distance", "fovy", "background"):
        values = cameras[name].unflatten(0, (5, 4))
        assert (values == values[:, :1]).all() and values[:, 0].std() > 0


def test_scenes_are_rendered_from_their_cameras():
    scenes = build_scenes(3, 4, seed=1, pairs=[("chair", "red")], normal_fraction=0.0)
    assert scenes.images.shape == (3, 4, 3, 64, 64) and scenes.c2w.shape == (3, 4, 4, 4)
    position = scenes.c2w[..., :3, 3]
    # A camera looks along its -z: at the origin, where the scene is.
    towards = -scenes.c2w[..., :3, 2]
    cosine = torch.nn.functional.cosine_similarity(towards, -position, dim=-1)
    assert torch.allclose(cosine, torch.ones(3, 4), atol=1e-5)
    assert (scenes.images[:, 0] != scenes.images[:, 1]).any()


def test_a_new_camera_embedding_changes_nothing_yet():
    plain = random_unet().eval()
    new = with_camera_embedding(plain).eval()
    x, t, text = torch.randn(4, 4, 8, 8), torch.tensor([10, 10, 10, 10]), torch.randn(4, 5, 24)
    labels = camera_labels(torch.randn(4, 4, 4))
    with torch.no_grad():
        expected = plain(x, t, text).sample
        torch.testing.assert_close(new(x, t, text, class_labels=labels).sample, expected)


def test_the_loss_of_scenes_sees_cameras_and_other_views():
    torch.manual_seed(0)
    unet = with_camera_embedding(random_unet())
    torch.nn.init.normal_(unet.class_embedding.linear_2.weight)
    model = TextToViews(unet, torch.linspace(0.99, 0.01, 1000)).eval()
    x, noise, text = torch.randn(2, 4, 4, 8, 8), torch.randn(2, 4, 4, 8, 8), torch.randn(2, 5, 24)
    t, labels = torch.tensor([100, 700]), torch.randn(2, 4, 16)
    with torch.no_grad():
        loss = model(x, text, noise, t, labels)
        # A scene's views are a set: permuting them with all that is theirs changes nothing.
        order = torch.tensor([2, 0, 3, 1])
        permuted = model(x[:, order], text, noise[:, order], t, labels[:, order])
        torch.testing.assert_close(permuted, loss)
        assert model(x, text, noise, t, labels[:, order]) != pytest.approx(float(loss), rel=1e-4)
        # Without cameras they are single pictures.
        alone = model(x.flatten(0, 1), text.repeat_interleave(4, 0), noise.flatten(0, 1),
                      t.repeat_interleave(4))  # fmt: skip
        assert alone != pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "distinct"),
    [pytest.param("mug", True, marks=pytest.mark.slow), ("chair", True), ("sphere", False)],
)
def test_the_truth_obeys_its_camera(name, distinct):
    azimuth = torch.tensor([0.0, 20.0, 100.0, 250.0])
    full = torch.ones_like(azimuth)
    cameras = {
        "azimuth": azimuth,
        "elevation": 20 * full,
        "distance": 2.5 * full,
        "fovy": 45 * full,
    }
    images, coverage = render(name, "blue", **cameras, background=torch.full((4, 3), 0.8))
    masks = silhouettes(images)
    wrong = (masks != (coverage[:, 0] > 0.5)).float().mean()
    assert wrong < 0.03
    assert obeyed(images, name, cameras).all()
    turned = {**cameras, "azimuth": azimuth + 90}
    assert obeyed(images, name, turned).all() != distinct
