"""The still and the turntable beside an exported mesh."""

import imageio.v2 as imageio
import pytest
import torch
from balls import ball, exporter

from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.studio.models.exporter.preview import turntable
from threestudio_asd.studio.systems.saving import SaverMixin

RED, GREEN = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])


def box():
    """From -1 to 1 in x and y, 0 to 1 in z, far from the origin, with texture coordinates."""
    corners = torch.tensor(
        [[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (0.0, 1.0)]
    )
    faces = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6]]
    faces += [[0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
    mesh = Mesh(corners + torch.tensor([3.0, -2.0, 5.0]), torch.tensor(faces))
    # All of the front (+x) in the left half of the texture, the rest in its right half.
    mesh._uv = (torch.tensor([[0.25, 0.5], [0.75, 0.5]]), torch.ones(12, 3, dtype=torch.long))
    mesh._uv[1][2:4] = 0
    return mesh


def test_all_of_the_mesh_is_seen_before_white():
    frames = turntable(box(), None, views=4, size=64)
    assert frames.shape == (4, 64, 64, 3)
    seen = (frames < 1).any(-1)
    assert not (seen[:, 0] | seen[:, -1] | seen[:, :, 0] | seen[:, :, -1]).any()
    assert (seen.float().mean((1, 2)) > 0.2).all()
    # Grey: no colours were given.
    assert (frames.amax(-1) - frames.amin(-1)).max() < 1e-6


def test_azimuth_zero_looks_at_the_front_in_its_colours():
    texture = torch.cat([RED.expand(8, 8, 3), GREEN.expand(8, 8, 3)], dim=1)
    frames = turntable(box(), texture, views=4, size=64)
    red = (frames[..., 0] > 2 * frames[..., 1]).sum((1, 2))
    green = (frames[..., 1] > 2 * frames[..., 0]).sum((1, 2))
    assert red[0] > 100 and (red[1:] == 0).all()
    assert green[0] > 50  # the top
    assert (green[1:] > 300).all()


def test_vertex_colours_are_shown():
    mesh = box()
    mesh.set_vertex_color(torch.where(mesh.v_pos[:, 2:] > 5.5, RED, GREEN))
    (frame,) = turntable(mesh, None, views=1, size=64)
    top, bottom = frame[24, 32], frame[44, 32]
    assert top[0] > 2 * top[1]
    assert bottom[1] > 2 * bottom[0]


@pytest.mark.parametrize("fmt", ["glb", "obj-mtl"])
def test_they_lie_beside_the_mesh(fmt, tmp_path):
    pytest.importorskip("xatlas")
    options = {"fmt": fmt, "texture_size": 32, "save_name": "pot", "save_preview": True}
    saver = SaverMixin()
    saver.set_save_dir(tmp_path)
    for out in exporter(ball(isosurface_resolution=12), **options)()[1:]:
        getattr(saver, f"save_{out.save_type}")(out.save_name, **out.params)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pot.mp4", "pot.png"]
    video = imageio.get_reader(tmp_path / "pot.mp4")
    assert video.count_frames() == 48
    # The ball is red at the bottom and violet at the top.
    still = torch.from_numpy(imageio.imread(tmp_path / "pot.png")).float()
    assert still[160, 160, 0] > 1.8 * still[160, 160, 1]
