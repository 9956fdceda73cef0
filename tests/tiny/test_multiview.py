"""A teacher of several views: its scenes, its start from the single-view UNet, its measure."""

import pytest
import torch

from threestudio_asd.errors import UserError
from threestudio_asd.teachers.views import camera_labels
from threestudio_asd.tiny.dataset import build_scenes, scene_cameras
from threestudio_asd.tiny.random_sd import random_unet
from threestudio_asd.tiny.render import camera_to_world, render
from threestudio_asd.tiny.train.measure_views import backgrounds, obeyed
from threestudio_asd.tiny.train.multiview import (
    TextToViews,
    sharpen_cameras,
    unet_of_views,
    with_camera_embedding,
    write_folder,
)


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
    ("name", "turn", "distinct"),
    [
        pytest.param("mug", 90, True, marks=pytest.mark.slow),
        ("chair", 90, True),
        ("house", 180, True),
        ("cube", 45, True),
        pytest.param("cube", 90, False, marks=pytest.mark.slow),
        pytest.param("sphere", 45, False, marks=pytest.mark.slow),
    ],
)
def test_the_truth_obeys_its_camera(name, turn, distinct):
    azimuth = torch.tensor([0.0, 20.0, 100.0, 250.0])
    full = torch.ones_like(azimuth)
    cameras = {
        "azimuth": azimuth,
        "elevation": 20 * full,
        "distance": 2.5 * full,
        "fovy": 45 * full,
    }
    images, _ = render(name, "blue", **cameras, background=torch.full((4, 3), 0.8))
    torch.testing.assert_close(backgrounds(images), torch.full((4, 3), 0.8))
    assert obeyed(images, name, "blue", cameras).all()
    turned = {**cameras, "azimuth": azimuth + turn}
    assert obeyed(images, name, "blue", turned).any() != distinct


def _of_azimuths(count):
    azimuth = torch.linspace(-180, 180, count)
    full = torch.ones_like(azimuth)
    return azimuth, camera_labels(camera_to_world(azimuth, 20 * full, 2.5 * full))


def test_sharp_cameras_say_what_they_said_and_tell_more_apart():
    torch.manual_seed(0)
    embedding = with_camera_embedding(random_unet()).class_embedding
    torch.nn.init.normal_(embedding.linear_2.weight)
    azimuth, labels = _of_azimuths(400)

    def unexplained(harmonic):
        """Share of cos(harmonic * azimuth) that no linear layer gets out of the hidden units."""
        wave = torch.cos(torch.deg2rad(harmonic * azimuth)).double()[:, None]
        hidden = embedding.act(embedding.linear_1(labels)).double()
        hidden = torch.cat([hidden, torch.ones_like(wave)], dim=1)
        square = hidden.T @ hidden
        square += 1e-6 * square.trace() * torch.eye(len(square), dtype=square.dtype)
        fitted = hidden @ torch.linalg.solve(square, hidden.T @ wave)
        return float((fitted - wave).square().mean() / wave.square().mean())

    with torch.no_grad():
        said, before = embedding(labels), unexplained(4)
        sharpen_cameras(embedding, labels)
        error = (embedding(labels) - said).square().mean() / said.var(dim=0).mean()
        assert error < 0.01
        assert unexplained(4) < 0.1 < 0.5 < before


def test_training_starts_from_an_earlier_folder(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "model_index.json").write_text("{}")
    unet = with_camera_embedding(random_unet())
    torch.nn.init.normal_(unet.class_embedding.linear_2.weight)
    write_folder(unet, source, tmp_path / "views")
    state = unet_of_views(tmp_path / "views").state_dict()
    for name, value in unet.state_dict().items():
        torch.testing.assert_close(state[name], value.half().float(), msg=name)
    random_unet().save_pretrained(tmp_path / "views/unet")
    with pytest.raises(UserError, match="no model of 4 views"):
        unet_of_views(tmp_path / "views")
