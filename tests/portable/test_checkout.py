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


def printed(code):
    """The last lines that ``code`` prints once the checkout's geometry is there."""
    done = subprocess.run(
        [sys.executable, "-c", GEOMETRY + code, CHECKOUT],
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
