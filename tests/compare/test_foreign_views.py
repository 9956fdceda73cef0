"""A mesh from a file beside the truth: the same cameras, light and judge."""

import math

import torch

from threestudio_asd.compare.measure.foreign import fixed_views_of, opinion, psnr
from threestudio_asd.compare.measure.reference import truth_mesh
from threestudio_asd.scene.foreign.reading import read_mesh
from threestudio_asd.scene.formats import write_mesh
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.tiny.render import fixed_views
from threestudio_asd.tiny.scenes import color


def test_the_true_mesh_looks_like_the_truth(tmp_path):
    true = truth_mesh("mushroom")
    mesh = Mesh(torch.tensor(true.vertices).float(), torch.tensor(true.faces))
    mesh.set_vertex_color(color("mushroom", "red", mesh.v_pos))
    write_mesh(tmp_path / "a.glb", mesh)
    found = fixed_views_of(read_mesh(tmp_path / "a.glb"))
    truth, coverage = fixed_views("mushroom", "red")
    assert psnr(found, truth, coverage) > 25
    assert opinion(found, "mushroom", "red")[0] == 8
    turned = found.roll(4, 0)  # seen from the other side it is still a mushroom
    assert opinion(turned, "mushroom", "red")[0] == 8
    mesh.set_vertex_color(color("mushroom", "blue", mesh.v_pos))
    write_mesh(tmp_path / "b.glb", mesh)
    other = fixed_views_of(read_mesh(tmp_path / "b.glb"))
    assert psnr(other, truth, coverage) < 15 and opinion(other, "mushroom", "red")[0] == 0


def test_psnr_weighs_pixels():
    truth, where = torch.zeros(1, 3, 2, 2), torch.tensor([[[[1.0, 1], [0, 0]]]])
    images = truth.clone()
    images[:, :, 0], images[:, :, 1] = 0.1, 0.9
    assert math.isclose(psnr(images, truth, where), 20.0, abs_tol=1e-4)
