import pytest
import torch

from threestudio_asd.tiny.scenes import (
    BROWN,
    COLORS,
    HELD_OUT,
    OBJECTS,
    color,
    normal,
    sdf,
    training_pairs,
)


@pytest.mark.parametrize("name", OBJECTS)
def test_a_distance_never_overestimates_and_scenes_lie_inside_the_ball(name):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(4000, 3, generator=generator) * 2.4 - 1.2
    distance = sdf(name, points)
    # 1-Lipschitz: moving by d changes a distance by at most d, so sphere tracing is safe.
    moved = points + 0.1 * torch.nn.functional.normalize(torch.randn(4000, 3), dim=-1)
    assert ((sdf(name, moved) - distance).abs() <= 0.1 + 1e-4).all()
    outside = points.norm(dim=-1) > 0.97
    assert (distance[outside] > 0).all()
    assert (distance < 0).any()


@pytest.mark.parametrize("name", OBJECTS)
def test_normals_are_unit_and_point_outwards(name):
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(20000, 3, generator=generator) * 2 - 1
    near = points[sdf(name, points).abs() < 0.02]
    n = normal(name, near)
    torch.testing.assert_close(n.norm(dim=-1), torch.ones(len(n)), atol=1e-3, rtol=0)
    rises = sdf(name, near + 0.01 * n) > sdf(name, near)
    assert rises.float().mean() > 0.97  # creases may go either way


def test_parts_keep_their_own_colour():
    trunk = torch.tensor([[0.13, 0.0, -0.6]])
    crown = torch.tensor([[0.3, 0.0, 0.0]])
    assert color("tree", "green", trunk)[0].tolist() == pytest.approx(BROWN)
    assert color("tree", "green", crown)[0].tolist() == pytest.approx(COLORS["green"])


def test_unknown_names_are_told():
    with pytest.raises(KeyError, match="unknown object 'dragon'"):
        sdf("dragon", torch.zeros(1, 3))
    with pytest.raises(KeyError, match="unknown colour 'beige'"):
        color("cube", "beige", torch.zeros(1, 3))


def test_held_out_pairs_stay_out_of_training():
    assert len(HELD_OUT) >= 6
    assert not set(HELD_OUT) & set(training_pairs())
    assert len(training_pairs()) == len(OBJECTS) * len(COLORS) - len(HELD_OUT)
    # Every object and every colour is still seen.
    assert {o for o, _ in training_pairs()} == set(OBJECTS)
    assert {c for _, c in training_pairs()} == set(COLORS)
