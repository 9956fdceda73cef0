"""In a real checkout (THREESTUDIO_PATH): its own geometry on our hash grid."""

import os
import subprocess
import sys

import pytest

CHECKOUT = os.environ.get("THREESTUDIO_PATH", "")

pytestmark = pytest.mark.skipif(not CHECKOUT, reason="THREESTUDIO_PATH is not set")

ORIENTATION = """
import sys, torch
from pathlib import Path
from omegaconf import OmegaConf
from threestudio_asd.cli import upstream_run

checkout = Path(sys.argv[1])
upstream_run.prepare(checkout)
import threestudio

config = OmegaConf.load(checkout / "configs/dreamfusion-sd.yaml").system.geometry
config.pos_encoding_config.log2_hashmap_size = 12
geometry = threestudio.find("implicit-volume")(config).train()
geometry.do_update_step(0, 0)
torch.manual_seed(0)
points = 2 * torch.rand(300, 3) - 1
normals = geometry(points, output_normal=True)["normal"]
views = torch.nn.functional.normalize(torch.randn(300, 3), dim=-1)
(normals * views).sum(-1).clamp(min=0).square().mean().backward()
levels = geometry.encoding.encoding.encoding.spec.offsets
rows = geometry.encoding.encoding.encoding.params.grad.view(-1, 2)
print(*(float(rows[a:b].norm()) for a, b in zip(levels, levels[1:])))
"""


def test_orientation_loss_reaches_the_hash_table_of_the_checkout():
    done = subprocess.run(
        [sys.executable, "-c", ORIENTATION, CHECKOUT],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    norms = [float(text) for text in done.stdout.splitlines()[-1].split()]
    # dreamfusion-sd starts with 8 of its 16 levels.
    assert min(norms[:8]) > 0
    assert max(norms[8:]) == 0
