"""One prompt through the whole demo: train, test, export, judge."""

import pytest
import trimesh

from threestudio_asd.cli.demo import distil
from threestudio_asd.cli.main import PLUGINS


@pytest.mark.e2e
def test_a_red_mug(tmp_path):
    result = distil("a red mug", root=tmp_path, plugins=PLUGINS)
    assert result.verdict.right_views >= 7, result.verdict
    assert result.verdict.silhouette_iou >= 0.7, result.verdict
    assert result.video.stat().st_size > 0
    assert result.picture.is_file()
    # Not force="mesh": trimesh then forgets the vertex colours of a mesh with a material.
    (mesh,) = trimesh.load(result.mesh, process=False).geometry.values()
    parts = mesh.split(only_watertight=False)
    largest = max(len(part.faces) for part in parts)
    assert largest >= 0.9 * len(mesh.faces)
    colors = mesh.visual.vertex_attributes["color"]
    assert colors[:, :3].std(axis=0).max() > 0
