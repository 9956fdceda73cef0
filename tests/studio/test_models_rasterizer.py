"""nvdiff-rasterizer on a sphere, whose pictures are known."""

import pytest
import torch
import torch.nn.functional as F

from threestudio_asd.errors import UserError
from threestudio_asd.studio import registry
from threestudio_asd.studio.data.random_camera import RandomCameraDataModule
from threestudio_asd.studio.models.background.neural_environment_map import (
    NeuralEnvironmentMapBackground,
)
from threestudio_asd.studio.models.background.solid_color import SolidColorBackground
from threestudio_asd.studio.models.geometry.tetrahedra_sdf_grid import TetrahedraSDFGrid
from threestudio_asd.studio.models.material.diffuse_with_point_light import (
    DiffuseWithPointLightMaterial,
)
from threestudio_asd.studio.models.material.no_material import NoMaterial
from threestudio_asd.studio.models.renderer.nvdiff_rasterizer import NVDiffRasterizer

RADIUS = 0.6
BEHIND = (0.25, 0.5, 0.75)


class Sphere(TetrahedraSDFGrid):
    """A fine sphere whose features are the coordinates."""

    def forward(self, points, output_normal=False):
        return {"features": 4 * points}


def sphere(**cfg):
    cfg = {
        "isosurface_resolution": 48,
        "geometry_only": True,
        "shape_init": "sphere",
        "shape_init_params": RADIUS,
        **cfg,
    }
    geometry = Sphere(cfg)
    geometry.initialize_shape()
    return geometry


def renderer(geometry=None, material=None, background=None, **cfg):
    return NVDiffRasterizer(
        cfg,
        geometry=geometry if geometry is not None else sphere(),
        material=material or NoMaterial(),
        background=background or SolidColorBackground({"color": BEHIND}),
    )


def views(n=3, size=64):
    module = RandomCameraDataModule(
        {"n_test_views": n, "eval_height": size, "eval_width": size, "eval_fovy_deg": 60.0}
    )
    module.setup("test")
    batches = list(module.test_dataloader())
    keys = ("rays_o", "rays_d", "mvp_mtx", "camera_positions", "light_positions")
    batch = {key: torch.cat([b[key] for b in batches]) for key in keys}
    return {**batch, "height": size, "width": size}


def first_hits(batch):
    """Where the cameras' rays meet the sphere (B H W 3), and how near they come to its middle."""
    o, d = batch["rays_o"], batch["rays_d"]
    along = -(o * d).sum(-1, keepdim=True)
    miss = (o + along * d).norm(dim=-1, keepdim=True)
    return o + (along - (RADIUS**2 - miss**2).clamp(min=0).sqrt()) * d, miss


def test_it_is_registered():
    assert registry.find("nvdiff-rasterizer") is NVDiffRasterizer


def test_pictures_are_those_along_the_cameras_rays():
    batch = views()
    out = renderer()(**batch)
    points, miss = first_hits(batch)
    inside, outside = (miss < RADIUS - 0.05)[..., 0], (miss > RADIUS + 0.05)[..., 0]
    assert inside.sum() > 1000 and outside.sum() > 1000
    assert (out["opacity"][inside] == 1).all()
    assert (out["opacity"][outside] == 0).all()
    expected = torch.sigmoid(4 * points)[inside]
    assert (out["comp_rgb"][inside] - expected).abs().mean() < 2e-3
    assert (out["comp_rgb"][outside] == torch.tensor(BEHIND)).all()
    normal = (F.normalize(points, dim=-1) + 1) / 2
    assert (out["comp_normal"] - normal)[inside].abs().mean() < 1e-2
    assert (out["comp_normal"][outside] == 0).all()
    assert (out["comp_rgb_bg"] == torch.tensor(BEHIND)).all()


@pytest.mark.parametrize("render_rgb", [True, False])
def test_depth_leads_along_the_rays_to_the_surface(render_rgb):
    """Times the opacity, as nerf-volume-renderer's: their quotient ends on the sphere, and at its
    silhouette as near to it as a pixel is wide."""
    batch = views()
    out = renderer()(**batch, render_rgb=render_rgb)
    points, miss = first_hits(batch)
    inside, outside = (miss < RADIUS - 0.05)[..., 0], (miss > RADIUS + 0.05)[..., 0]
    depth, opacity = out["depth"], out["opacity"]
    assert (depth[outside] == 0).all()
    found = batch["rays_o"] + batch["rays_d"] * depth / opacity.clamp_min(1e-5)
    assert (found - points)[inside].norm(dim=-1).mean() < 4e-3
    edge = ((opacity > 0.1) & (opacity < 1))[..., 0]
    assert edge.sum() > 100
    assert (found[edge].norm(dim=-1) - RADIUS).abs().max() < 0.1


def test_depth_has_the_gradient_of_the_distance():
    geometry, batch = sphere(), views(1)
    out = renderer(geometry)(**batch, render_rgb=False)
    _, miss = first_hits(batch)
    middle = miss[..., 0] < 0.1
    (gradient,) = torch.autograd.grad(out["depth"][middle].mean(), geometry.sdf)
    # A larger sphere is nearer by as much: its level falls everywhere.
    assert gradient.sum().item() == pytest.approx(1.0, rel=0.05)


def test_the_silhouette_is_antialiased_to_its_area():
    coarse, fine = (renderer()(**views(1, size))["opacity"] for size in (32, 256))
    edge = coarse[(coarse > 0) & (coarse < 1)]
    assert len(edge) > 20
    assert coarse.mean().item() == pytest.approx(fine.mean().item(), rel=5e-3)


def test_silhouettes_have_the_gradient_of_their_area():
    geometry, batch = sphere(), views()
    area = renderer(geometry)(**batch, render_rgb=False)["opacity"].mean()
    (gradient,) = torch.autograd.grad(area, geometry.sdf)
    with torch.no_grad():
        # A sphere larger by this much everywhere.
        larger = sphere(shape_init_params=RADIUS + 0.02)
        slope = (renderer(larger)(**batch, render_rgb=False)["opacity"].mean() - area) / 0.02
    assert -gradient.sum().item() == pytest.approx(slope.item(), rel=0.05)


def test_the_geometry_stage_asks_for_no_colours():
    class Refusing(NoMaterial):
        def forward(self, *args, **kwargs):
            raise AssertionError

    out = renderer(material=Refusing())(**views(1), render_rgb=False)
    assert set(out) == {"mesh", "opacity", "depth", "comp_normal"}


def test_a_material_gets_lights_and_normals():
    batch = views(2)
    material = DiffuseWithPointLightMaterial({"ambient_only_steps": 0}).eval()
    out = renderer(material=material)(**batch)
    points, miss = first_hits(batch)
    inside = (miss < RADIUS - 0.05)[..., 0]
    lights = batch["light_positions"][:, None, None, :].expand_as(points)
    expected = material(
        features=4 * points[inside],
        positions=points[inside],
        shading_normal=F.normalize(points, dim=-1)[inside],
        light_positions=lights[inside],
    )
    assert (out["comp_rgb"][inside] - expected).abs().mean() < 1e-2


def test_the_background_can_be_replaced():
    color = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    out = renderer()(**views(2), bg_color=color)
    for image, wanted in zip(out["comp_rgb"], color, strict=True):
        assert (image[0, 0] == wanted).all()


def test_colours_reach_the_background_network():
    background = NeuralEnvironmentMapBackground({})
    renderer(background=background)(**views(1))["comp_rgb"].sum().backward()
    assert all(p.grad is not None for p in background.parameters())


def test_nothing_in_sight_is_background_alone():
    batch = views(1)
    batch["mvp_mtx"] = batch["mvp_mtx"].clone()
    batch["mvp_mtx"][:, 0, 3] += 100  # far to the side
    out = renderer()(**batch)
    assert (out["opacity"] == 0).all()
    assert (out["comp_rgb"] == torch.tensor(BEHIND)).all()
    out["comp_rgb"].sum().backward()


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="context_type is 'vulkan'; use gl or cuda"):
        renderer(context_type="vulkan")
    material = NoMaterial()
    material.requires_tangent = True
    with pytest.raises(UserError, match="needs tangents"):
        renderer(material=material)
