"""nerf-volume-renderer on scenes whose images are known."""

import pytest
import torch
import torch.nn.functional as F
from kit import NETWORKS

from threestudio_asd.errors import UserError
from threestudio_asd.studio import registry
from threestudio_asd.studio.data.random_camera import RandomCameraDataModule
from threestudio_asd.studio.models.background.neural_environment_map import (
    NeuralEnvironmentMapBackground,
)
from threestudio_asd.studio.models.background.solid_color import SolidColorBackground
from threestudio_asd.studio.models.geometry.base import BaseImplicitGeometry
from threestudio_asd.studio.models.geometry.implicit_volume import ImplicitVolume
from threestudio_asd.studio.models.material.no_material import NoMaterial
from threestudio_asd.studio.models.renderer import nerf_volume_renderer
from threestudio_asd.studio.models.renderer.nerf_volume_renderer import NeRFVolumeRenderer

IMAGES = {"comp_rgb": 3, "comp_rgb_fg": 3, "comp_rgb_bg": 3, "opacity": 1, "depth": 1}
SAMPLES = {"weights": 1, "t_points": 1, "t_intervals": 1, "t_dirs": 3, "points": 3}
RADIUS = 0.5


class SolidBall(BaseImplicitGeometry):
    """Density ``inside`` within RADIUS, zero outside; features give the colour."""

    inside = 1000.0
    color = (2.0, 0.0, -2.0)

    def forward_density(self, points):
        return self.inside * (points.norm(dim=-1, keepdim=True) < RADIUS).float()

    def forward(self, points, output_normal=False):
        out = {
            "density": self.forward_density(points),
            "features": torch.tensor(self.color).expand_as(points),
        }
        if output_normal:
            out["normal"] = out["shading_normal"] = F.normalize(points, dim=-1)
        return out


def renderer(geometry=None, material=None, background=None, warm=True, **cfg):
    torch.manual_seed(0)  # the grid's updates jitter
    built = NeRFVolumeRenderer(
        {"num_samples_per_ray": 256, **cfg},
        geometry=geometry if geometry is not None else SolidBall(),
        material=material or NoMaterial(),
        background=background or SolidColorBackground({"color": (0.25, 0.5, 0.75)}),
    )
    if warm:
        for step in range(0, 64, 16):
            built.do_update_step(0, step)
    return built


def views(n=1, size=16, **cfg):
    module = RandomCameraDataModule(
        {"n_test_views": n, "eval_height": size, "eval_width": size, "eval_fovy_deg": 60.0, **cfg}
    )
    module.setup("test")
    batches = list(module.test_dataloader())
    return {
        k: torch.cat([b[k] for b in batches])
        for k in ("rays_o", "rays_d", "light_positions", "c2w")
    }


def hits(batch):
    """How close each ray passes to the origin, and where it enters the ball."""
    o, d = batch["rays_o"], batch["rays_d"]
    along = -(o * d).sum(-1, keepdim=True)
    miss = (o + along * d).norm(dim=-1, keepdim=True)
    return miss, along - (RADIUS**2 - miss**2).clamp(min=0).sqrt()


@pytest.mark.parametrize("grid_prune", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_solid_ball(grid_prune, training):
    batch = views(2)
    out = renderer(grid_prune=grid_prune).train(training)(**batch)
    miss, entry = hits(batch)
    inside, outside = miss < RADIUS - 0.05, miss > RADIUS + 0.02
    assert inside.any() and outside.any()
    torch.testing.assert_close(out["opacity"][inside], torch.ones(inside.sum()), atol=1e-3, rtol=0)
    assert out["opacity"][outside].abs().max() == 0
    step, cell = 1.732 * 2 / 256, 1.732 * 2 / 32
    # The jittered updates of the grid can miss a cell that the ball fills only at a corner.
    assert (out["depth"] - entry)[inside].abs().max() < 1.001 * step + grid_prune * cell
    color = torch.tensor(SolidBall.color).sigmoid().expand_as(out["comp_rgb"])
    at = inside.expand_as(color)
    torch.testing.assert_close(out["comp_rgb"][at], color[at], atol=1e-3, rtol=0)
    assert out["z_variance"].max() < step**2


def test_thin_fog_follows_beer_lambert():
    class Fog(SolidBall):
        inside = 1.5

    batch = views()
    out = renderer(Fog(), grid_prune=False, num_samples_per_ray=512).eval()(**batch)
    miss, _ = hits(batch)
    length = 2 * (RADIUS**2 - miss**2).clamp(min=0).sqrt()
    torch.testing.assert_close(out["opacity"], 1 - torch.exp(-1.5 * length), atol=0.02, rtol=0)


def test_background_shows_where_the_ball_does_not():
    out = renderer()(**views())
    expected = out["comp_rgb_fg"] + out["comp_rgb_bg"] * (1 - out["opacity"])
    torch.testing.assert_close(out["comp_rgb"], expected)
    torch.testing.assert_close(
        out["comp_rgb_bg"], torch.tensor([0.25, 0.5, 0.75]).expand_as(expected)
    )


def test_given_background_colour():
    batch, red = views(2), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    draw = renderer().eval()
    per_image = draw(**batch, bg_color=red)["comp_rgb"]
    full = red[:, None, None].expand(2, 16, 16, 3)
    assert torch.equal(draw(**batch, bg_color=full)["comp_rgb"], per_image)
    assert torch.equal(draw(**batch, bg_color=full.reshape(-1, 3))["comp_rgb"], per_image)
    torch.testing.assert_close(per_image[:, 0, 0], red)


def test_training_output():
    out = renderer()(**views(2))
    for key, channels in {**IMAGES, "z_variance": 1}.items():
        assert out[key].shape == (2, 16, 16, channels), key
    n = len(out["ray_indices"])
    for key, channels in {**SAMPLES, "density": 1, "features": 3}.items():
        assert out[key].shape == (n, channels), key
    assert out["ray_indices"].dtype == torch.int64
    assert "comp_normal" not in out
    sums = torch.zeros(512).index_add(0, out["ray_indices"], out["weights"][:, 0])
    torch.testing.assert_close(sums, out["opacity"].view(-1))


def test_evaluation_output_has_images_alone():
    out = renderer().eval()(**views(2))
    assert set(out) == {*IMAGES, "z_variance"}


def test_normals():
    batch = views()
    material = NoMaterial({"requires_normal": True})
    evaluated = renderer(material=material).eval()(**batch)["comp_normal"]
    trained = renderer(material=material, return_comp_normal=True, return_normal_perturb=True)(
        **batch
    )
    miss, entry = hits(batch)
    inside = (miss < RADIUS - 0.1)[..., 0]
    hit = batch["rays_o"] + entry * batch["rays_d"]
    expected = (F.normalize(hit, dim=-1) + 1) / 2
    for normal in (evaluated, trained["comp_normal"]):
        assert (normal - expected)[inside].abs().max() < 0.05
        assert normal[(miss > RADIUS + 0.02)[..., 0]].abs().max() == 0
    assert trained["normal_perturb"].shape == trained["normal"].shape


def test_evaluation_is_deterministic_and_training_jitters():
    batch = views()
    draw = renderer()
    assert not torch.equal(draw(**batch)["depth"], draw(**batch)["depth"])
    draw.eval()
    assert torch.equal(draw(**batch)["depth"], draw(**batch)["depth"])
    fixed = renderer(randomized=False)
    assert torch.equal(fixed(**batch)["depth"], fixed(**batch)["depth"])


def test_jitter_returns_after_evaluation():
    batch, draw = views(), renderer()
    draw.eval().train()
    assert not torch.equal(draw(**batch)["depth"], draw(**batch)["depth"])


def test_chunks_change_nothing():
    batch = views()
    whole, chunked = renderer().eval()(**batch), renderer(eval_chunk_size=100).eval()(**batch)
    for key in whole:
        torch.testing.assert_close(chunked[key], whole[key], atol=1e-5, rtol=1e-5)


def test_pruning_drops_samples_and_keeps_the_image():
    batch = views()
    full = renderer(grid_prune=False, randomized=False)(**batch)
    grid = renderer(prune_alpha_threshold=False, randomized=False)(**batch)
    both = renderer(randomized=False)(**batch)
    assert len(both["points"]) < len(grid["points"]) < len(full["points"])
    for out in (grid, both):
        torch.testing.assert_close(out["comp_rgb"], full["comp_rgb"], atol=2e-3, rtol=0)


class Counting(SolidBall):
    evaluated = 0

    def forward(self, points, output_normal=False):
        self.evaluated += len(points)
        return super().forward(points, output_normal)


def test_many_samples_are_pruned_before_geometry_is_evaluated(monkeypatch):
    monkeypatch.setattr(nerf_volume_renderer, "SHADED_AT_ONCE", 0)
    draw = renderer(Counting())
    out = draw(**views())
    assert draw.geometry.evaluated == len(out["points"])


def test_few_samples_are_evaluated_once_and_pruned_afterwards(monkeypatch):
    results, batch = [], views()
    for most in (0, 2**20):
        monkeypatch.setattr(nerf_volume_renderer, "SHADED_AT_ONCE", most)
        torch.manual_seed(0)
        geometry = ImplicitVolume({**NETWORKS, "density_blob_scale": 40.0})
        out = renderer(geometry, randomized=False)(**batch)
        loss = out["comp_rgb"].square().sum() + out["weights"].square().sum()
        results.append((out, torch.autograd.grad(loss, [*geometry.parameters()])))
    (before, before_grads), (after, after_grads) = results
    grid = renderer(ImplicitVolume(NETWORKS), prune_alpha_threshold=False, randomized=False)(
        **batch
    )
    assert len(before["points"]) < len(grid["points"])
    assert torch.equal(before["points"], after["points"])
    assert before.keys() == after.keys()
    for key in before:
        torch.testing.assert_close(after[key], before[key], atol=1e-6, rtol=1e-5)
    for a, b in zip(after_grads, before_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_empty_scene_keeps_the_background_and_its_gradients():
    class Empty(SolidBall):
        inside = 0.0

    background = NeuralEnvironmentMapBackground()
    out = renderer(Empty(), background=background)(**views())
    assert torch.equal(out["comp_rgb"], out["comp_rgb_bg"])
    assert out["opacity"].abs().max() == 0 and len(out["points"]) == 1
    out["comp_rgb"].sum().backward()
    assert all(p.grad is not None for p in background.parameters())


def test_empty_volume_gives_zero_gradients_not_none():
    geometry = ImplicitVolume({**NETWORKS, "density_bias": -100.0})
    out = renderer(geometry)(**views())
    out["comp_rgb"].sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in geometry.parameters())


@pytest.mark.parametrize("key", ["comp_rgb", "opacity", "depth", "z_variance"])
def test_gradients_reach_the_volume(key):
    torch.manual_seed(0)
    geometry = ImplicitVolume({**NETWORKS, "density_blob_std": 0.3})
    draw = renderer(geometry, material=NoMaterial())
    draw(**views())[key].square().sum().backward()
    assert geometry.encoding.encoding.encoding is not None
    for parameter in geometry.encoding.parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
    has_colour_gradient = geometry.feature_network.layers[0].weight.grad is not None
    assert has_colour_gradient or key != "comp_rgb"


def test_parts_belong_to_the_system_but_the_grid_to_the_renderer():
    draw = renderer(ImplicitVolume(NETWORKS))
    assert not list(draw.parameters())
    assert "estimator.occs" in draw.state_dict()
    other = SolidBall()
    draw.set_geometry(other)
    assert draw.geometry is other


def test_grid_updates_in_training_alone():
    draw = renderer(warm=False)
    before = draw.estimator.occs.clone()
    draw.eval().do_update_step(0, 0)
    draw.train().do_update_step(0, 0, on_load_weights=True)
    assert torch.equal(draw.estimator.occs, before)
    draw.do_update_step(0, 0)
    assert not torch.equal(draw.estimator.occs, before)


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"estimator": "importance"}, "accepted by threestudio but not implemented"),
        ({"estimator": "proposal"}, "occgrid"),
        ({"estimator": "magic"}, "occgrid"),
        ({"num_samples_per_ray": 0}, "num_samples_per_ray"),
        ({"radius": 0.0}, "positive"),
    ],
)
def test_bad_input(cfg, words):
    with pytest.raises(UserError, match=words):
        renderer(warm=False, **cfg)


def test_registered():
    assert registry.find("nerf-volume-renderer") is NeRFVolumeRenderer
