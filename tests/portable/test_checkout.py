"""In a real checkout (THREESTUDIO_PATH): its own geometry and renderer on our stand-ins."""

import os
import subprocess
import sys

import pytest

CHECKOUT = os.environ.get("THREESTUDIO_PATH", "")

pytestmark = pytest.mark.skipif(not CHECKOUT, reason="THREESTUDIO_PATH is not set")

GEOMETRY = """
import sys, torch
from pathlib import Path
from omegaconf import OmegaConf
from threestudio_asd.cli import upstream_run

checkout = Path(sys.argv[1])
upstream_run.prepare(checkout)
import threestudio

config = OmegaConf.load(checkout / "configs/dreamfusion-sd.yaml").system
config.geometry.pos_encoding_config.log2_hashmap_size = 12
geometry = threestudio.find("implicit-volume")(config.geometry).train()
geometry.do_update_step(0, 0)
torch.manual_seed(0)
"""
ORIENTATION = """
points = 2 * torch.rand(300, 3) - 1
normals = geometry(points, output_normal=True)["normal"]
views = torch.nn.functional.normalize(torch.randn(300, 3), dim=-1)
(normals * views).sum(-1).clamp(min=0).square().mean().backward()
levels = geometry.encoding.encoding.encoding.spec.offsets
rows = geometry.encoding.encoding.encoding.params.grad.view(-1, 2)
print(*(float(rows[a:b].norm()) for a, b in zip(levels, levels[1:])))
"""
EMPTY = """
material = threestudio.find(config.material_type)(config.material)
background = threestudio.find(config.background_type)(config.background)
renderer = threestudio.find(config.renderer_type)(
    config.renderer, geometry=geometry, material=material, background=background
).train()
assert not renderer.estimator.binaries.any()
rays_o, rays_d = torch.full((1, 4, 4, 3), 2.0), torch.randn(1, 4, 4, 3)
for training in (True, False):
    renderer.train(training)
    out = renderer(rays_o, rays_d, light_positions=torch.ones(1, 3))
    found = [out[name] for name in ("comp_rgb_fg", "opacity", "depth", "z_variance")]
    if training:
        sum(image.sum() for image in found).backward()
        found += [p.grad for p in geometry.parameters() if p.grad is not None]
        print(len(found) > 4)
    print(*(float(image.detach().abs().max()) for image in found))
"""
# A cone around the z axis, seen by the checkout's own cameras.
RASTERISER = """
import math
from threestudio.models.mesh import Mesh
from threestudio.utils.ops import get_mvp_matrix, get_projection_matrix
from threestudio.utils.rasterize import NVDiffRasterizerContext

turn = 2 * math.pi * torch.arange(12) / 12
rim = torch.stack([0.8 * turn.cos(), 0.8 * turn.sin(), torch.full_like(turn, -0.5)], dim=-1)
vertices = torch.cat([rim, torch.tensor([[0, 0, 0.9], [0, 0, -0.5]])]).requires_grad_()
k = torch.arange(12)
around = (k + 1) % 12
faces = [(k, around, 0 * k + 12), (around, k, 0 * k + 13)]
tri = torch.cat([torch.stack(corners, dim=-1) for corners in faces])
geometry.isosurface = lambda: Mesh(v_pos=vertices, t_pos_idx=tri)
renderer = threestudio.find("nvdiff-rasterizer")(
    {"context_type": sys.argv[2]},
    geometry=geometry,
    material=threestudio.find("no-material")({"n_output_dims": 3}),
    background=threestudio.find("solid-color-background")({}),
)
assert isinstance(renderer.ctx, NVDiffRasterizerContext)
eye = torch.tensor([[2.5, 0.0, 0.0]])
# Columns right, up, backward and place.
c2w = torch.tensor([[[0.0, 0, 1, 2.5], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]])
proj = get_projection_matrix(torch.tensor([math.radians(60)]), 1.0, 0.1, 100.0)
mvp = get_mvp_matrix(c2w, proj)
out = renderer(
    mvp, camera_positions=eye, light_positions=eye, height=48, width=48, render_rgb=True
)
opacity = out["opacity"][0, ..., 0]
(out["comp_rgb"].mean() + out["comp_normal"].mean() + opacity.mean()).backward()
clip = renderer.ctx.vertex_transform(vertices, mvp)[0]
a, b, c = (24 * clip[:, :2] / clip[:, 3:])[tri].unbind(1)
area = 0.25 * torch.linalg.det(torch.stack([b - a, c - a], dim=-1)).abs().sum()
rast, _ = renderer.ctx.rasterize_one(clip, tri, (48, 48))
place, _ = renderer.ctx.interpolate_one(vertices, rast[None], tri)
rows = (opacity > 0.5).sum(1).nonzero()
print(rows[0].item(), rows[-1].item())
print((opacity.sum() / area).item())
print(vertices.grad.norm(dim=-1).min().item())
print(place[0, 20, 24].tolist())
"""
# A sphere of tetrahedra becomes a box, by its silhouette from one side.
SILHOUETTE = """
import math, os
from threestudio.utils.ops import get_mvp_matrix, get_projection_matrix

os.chdir(checkout)
geometry = threestudio.find("tetrahedra-sdf-grid")(
    {"isosurface_resolution": 32, "shape_init": "sphere", "shape_init_params": 0.5}
)
geometry.initialize_shape()
renderer = threestudio.find("nvdiff-rasterizer")(
    {},
    geometry=geometry,
    material=threestudio.find("no-material")({"n_output_dims": 3}),
    background=threestudio.find("solid-color-background")({}),
)
eye = torch.tensor([[2.5, 0.0, 0.0]])
c2w = torch.tensor([[[0.0, 0, 1, 2.5], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]])
proj = get_projection_matrix(torch.tensor([math.radians(60)]), 1.0, 0.1, 100.0)
y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
target = ((x - 32).abs() < 14) & ((y - 32).abs() < 10)
adam = torch.optim.Adam([geometry.sdf, geometry.deformation], lr=5e-3)
for step in range(40):
    out = renderer(
        get_mvp_matrix(c2w, proj), camera_positions=eye, light_positions=eye, height=64, width=64,
        render_rgb=False,
    )
    opacity = out["opacity"][0, ..., 0]
    seen = opacity > 0.5
    if step in (0, 39):
        print(((seen & target).sum() / (seen | target).sum()).item())
    adam.zero_grad()
    loss = (opacity - target.float()).square().mean() + 0.01 * out["mesh"].normal_consistency()
    loss.backward()
    adam.step()
"""


def printed(code, *arguments):
    """The last lines that ``code`` prints once the checkout's geometry is there."""
    done = subprocess.run(
        [sys.executable, "-c", GEOMETRY + code, CHECKOUT, *arguments],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_orientation_loss_reaches_the_hash_table_of_the_checkout():
    norms = [float(text) for text in printed(ORIENTATION)[-1].split()]
    # dreamfusion-sd starts with 8 of its 16 levels.
    assert min(norms[:8]) > 0
    assert max(norms[8:]) == 0


def test_rays_that_hit_nothing_are_black_and_without_gradient():
    *_, has_gradients, training, evaluating = printed(EMPTY)
    assert has_gradients == "True"
    assert {float(text) for line in (training, evaluating) for text in line.split()} == {0.0}


@pytest.mark.parametrize("context", ["gl", "cuda"])
def test_its_rasteriser_draws_a_cone(context):
    *_, rows, area, slope, place = printed(RASTERISER, context)
    # Its cameras look down on row 0. The tip is at z / (distance tan 30) = 0.62, the rim at -0.51.
    assert rows == "10 35"
    assert abs(float(area) - 1) < 0.01
    assert float(slope) > 0
    # Row 20, column 24 looks along (-1, 0.0208 tan 30, 0.1458 tan 30), which meets the cone's
    # edge 0.8 (0.9 - z) / 1.4 at distance 2.09.
    x, y, z = (float(text) for text in place.strip("[]").split(","))
    assert x == pytest.approx(0.41, abs=0.01)
    assert abs(y) == pytest.approx(0.025, abs=0.002)
    assert z == pytest.approx(0.176, abs=0.005)


def test_its_tetrahedra_take_the_shape_of_a_silhouette():
    if not os.path.exists(os.path.join(CHECKOUT, "load/tets/32_tets.npz")):
        pytest.skip("the checkout has no load/tets/32_tets.npz")
    *_, before, after = printed(SILHOUETTE)
    assert float(before) < 0.7
    assert float(after) > 0.95
