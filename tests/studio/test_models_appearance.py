"""Backgrounds and materials."""

import pytest
import torch
import torch.nn.functional as F

from threestudio_asd.errors import UserError
from threestudio_asd.studio import registry
from threestudio_asd.studio.models.background.neural_environment_map import (
    NeuralEnvironmentMapBackground,
    SharedNeuralEnvironmentMapBackground,
)
from threestudio_asd.studio.models.background.solid_color import SolidColorBackground
from threestudio_asd.studio.models.material.diffuse_with_point_light import (
    DiffuseWithPointLightMaterial,
)
from threestudio_asd.studio.models.material.no_material import NoMaterial


@pytest.fixture
def dirs():
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(2, 5, 6, 3, generator=generator), dim=-1)


@pytest.fixture
def surface():
    generator = torch.Generator().manual_seed(0)
    normals = F.normalize(torch.randn(50, 3, generator=generator), dim=-1)
    return {
        "features": torch.randn(50, 3, generator=generator),
        "positions": torch.zeros(50, 3),
        "shading_normal": normals,
        "light_positions": torch.tensor([[0.0, 0.0, 2.0]]).expand(50, 3),
    }


def test_registered():
    assert registry.find("solid-color-background") is SolidColorBackground
    assert registry.find("neural-environment-map-background") is NeuralEnvironmentMapBackground
    assert registry.find("no-material") is NoMaterial
    assert registry.find("diffuse-with-point-light-material") is DiffuseWithPointLightMaterial


def test_solid_color(dirs):
    color = SolidColorBackground({"color": (0.2, 0.4, 0.6)})(dirs=dirs)
    assert color.shape == (2, 5, 6, 3)
    torch.testing.assert_close(color, torch.tensor([0.2, 0.4, 0.6]).expand(2, 5, 6, 3))
    assert torch.equal(SolidColorBackground()(dirs), torch.ones(2, 5, 6, 3))


def test_solid_color_can_be_learned(dirs):
    background = SolidColorBackground({"learned": True})
    background(dirs).sum().backward()
    torch.testing.assert_close(background.env_color.grad, torch.full((3,), 60.0))


def test_environment_map_depends_on_direction_alone(dirs):
    background = NeuralEnvironmentMapBackground()
    color = background(dirs)
    assert color.shape == (2, 5, 6, 3) and color.min() >= 0 and color.max() <= 1
    assert color.flatten(0, 2).std(dim=0).min() > 0
    torch.testing.assert_close(background(dirs.flip(1)), color.flip(1))
    color.sum().backward()
    assert all(p.grad is not None for p in background.parameters())


def test_eval_color_replaces_the_network_outside_training(dirs):
    background = NeuralEnvironmentMapBackground({"eval_color": (0.5, 0.5, 0.5)})
    assert not torch.allclose(background(dirs), torch.tensor(0.5))
    assert torch.equal(background.eval()(dirs), torch.full((2, 5, 6, 3), 0.5))


@pytest.mark.parametrize("background_class", [SolidColorBackground, NeuralEnvironmentMapBackground])
def test_random_augmentation(background_class, dirs):
    background = background_class({"random_aug": True, "random_aug_prob": 0.5})
    plain = background.eval()(dirs)
    torch.manual_seed(0)
    background.train()
    augmented = [c for c in (background(dirs) for _ in range(200)) if not torch.equal(c, plain)]
    assert 70 < len(augmented) < 130
    for color in augmented[:5]:
        assert torch.equal(color, color[:, :1, :1].expand_as(color))  # one colour per image
        assert not torch.equal(color[0], color[1])
    assert torch.equal(background.eval()(dirs), plain)


@pytest.mark.parametrize("share", [True, False])
def test_views_of_a_scene_may_stand_before_one_random_colour(dirs, share):
    name = "mvdream-neural-environment-map-background"
    assert registry.find(name) is SharedNeuralEnvironmentMapBackground
    background = registry.find(name)(
        {"random_aug": True, "random_aug_prob": 1.0, "share_aug_bg": share}
    )
    first, second = background(dirs), background(dirs)
    assert torch.equal(first, first[:, :1, :1].expand_as(first))
    assert torch.equal(first[0], first[1]) == share
    assert not torch.equal(first, second) and first.shape == (2, 5, 6, 3)
    # Outside training it is the network under the other name.
    plain = NeuralEnvironmentMapBackground()
    plain.load_state_dict(background.state_dict())
    assert torch.equal(background.eval()(dirs), plain(dirs))


def test_no_material_activates_the_features(surface):
    material = NoMaterial()
    assert not material.requires_normal
    torch.testing.assert_close(material(**surface), surface["features"].sigmoid())
    torch.testing.assert_close(
        material.export(features=surface["features"])["albedo"], surface["features"].sigmoid()
    )


def test_no_material_with_a_network(surface):
    mlp = {"otype": "VanillaMLP", "activation": "ReLU", "n_neurons": 8, "n_hidden_layers": 1}
    material = NoMaterial({"input_feature_dims": 8, "mlp_network_config": mlp})
    features = torch.randn(4, 5, 8)
    color = material(features=features)
    assert color.shape == (4, 5, 3) and color.min() >= 0 and color.max() <= 1
    torch.testing.assert_close(color[1], material(features=features[1]))


def test_no_material_explains_a_mismatch():
    with pytest.raises(UserError, match="n_feature_dims"):
        NoMaterial()(features=torch.randn(4, 5))
    with pytest.raises(UserError, match="channels"):
        NoMaterial({"n_output_dims": 1}).export(features=torch.randn(4, 1))


def test_lambertian_shading(surface):
    material = DiffuseWithPointLightMaterial().eval()
    assert material.requires_normal
    albedo = surface["features"].sigmoid()
    light = 0.9 * surface["shading_normal"][:, 2:].clamp(min=0) + 0.1
    torch.testing.assert_close(material(**surface), albedo * light)
    torch.testing.assert_close(material(**surface, shading="textureless"), light.expand(50, 3))
    torch.testing.assert_close(material(**surface, shading="albedo"), albedo)
    half = material(**surface, ambient_ratio=0.5)
    torch.testing.assert_close(
        half, albedo * (0.5 * surface["shading_normal"][:, 2:].clamp(min=0) + 0.5)
    )


def test_ambient_only_at_first(surface):
    material = DiffuseWithPointLightMaterial({"ambient_only_steps": 10, "diffuse_prob": 1.0})
    albedo = surface["features"].sigmoid()
    material.do_update_step(0, 9)
    assert torch.equal(material(**surface), albedo)
    material.do_update_step(0, 10)
    assert not torch.equal(material(**surface), albedo)


def test_shading_is_drawn_with_the_configured_probabilities(surface):
    material = DiffuseWithPointLightMaterial({"diffuse_prob": 0.75, "textureless_prob": 0.5})
    named = {s: material(**surface, shading=s) for s in ("albedo", "textureless", "diffuse")}
    torch.manual_seed(0)
    drawn = [material(**surface) for _ in range(400)]
    counts = {s: sum(torch.equal(d, c) for d in drawn) for s, c in named.items()}
    assert sum(counts.values()) == 400
    assert counts["albedo"] == pytest.approx(100, abs=35)
    assert counts["textureless"] == pytest.approx(150, abs=40)


def test_unknown_shading(surface):
    with pytest.raises(UserError, match="textureless"):
        DiffuseWithPointLightMaterial()(**surface, shading="toon")
