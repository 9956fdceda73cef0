"""Pictures, videos, meshes and data that systems write."""

import json
from pathlib import Path
from types import SimpleNamespace

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
import trimesh

from threestudio_asd.errors import UserError
from threestudio_asd.scene import images
from threestudio_asd.scene.objfile import mtl_text, obj_text
from threestudio_asd.studio.systems.saving import SaverMixin


@pytest.fixture
def saver(tmp_path):
    saver = SaverMixin()
    saver.set_save_dir(tmp_path)
    return saver


def rgb(height=4, width=6, value=0.5):
    return torch.full((height, width, 3), value)


def test_rgb_values_and_layouts():
    image = np.random.default_rng(0).random((4, 6, 3))
    out = images.rgb_image(image)
    assert out.dtype == np.uint8
    assert np.array_equal(out, np.floor(image * 255).astype(np.uint8))
    assert np.array_equal(images.rgb_image(image.transpose(2, 0, 1), "CHW"), out)
    assert np.array_equal(images.rgb_image(2 * image - 1, data_range=(-1, 1)), out)
    assert np.array_equal(images.rgb_image(out), out)  # bytes stay


def test_more_than_three_channels_go_to_the_right():
    image = np.arange(5, dtype=float).reshape(1, 1, 5) / 255
    assert images.rgb_image(image).tolist() == [[[0, 1, 2], [3, 4, 0]]]


def test_grayscale():
    values = np.array([[0.0, 0.5, 1.0, np.nan]])
    grey = images.grayscale_image(values, (0, 1), cmap=None)
    assert grey[0, :, 0].tolist() == [0, 127, 255, 0]
    jet = images.grayscale_image(values, (0, 1), cmap="jet")
    blue, green, red = jet[0, 0], jet[0, 1], jet[0, 2]
    assert (blue.argmax(), green.argmax(), red.argmax()) == (2, 1, 0)
    assert images.grayscale_image(np.full((2, 2), 3.0)).shape == (2, 2, 3)  # no range at all
    with pytest.raises(UserError, match="unknown cmap"):
        images.grayscale_image(values, (0, 1), cmap="viridis")


def test_grid_aligns_and_stacks():
    small = {"type": "rgb", "img": np.ones((2, 2, 3)), "kwargs": {"data_format": "HWC"}}
    large = {"type": "grayscale", "img": np.zeros((4, 6)), "kwargs": {"cmap": None}}
    uv = {"type": "uv", "img": np.zeros((4, 6, 2)), "kwargs": {}}
    assert images.image_grid([small, large]).shape == (4, 12, 3)
    assert images.image_grid([small, large], align="min").shape == (2, 4, 3)
    assert images.image_grid([small, large], align=8).shape == (8, 16, 3)
    assert images.image_grid([[small, large], [uv, uv]]).shape == (8, 12, 3)
    with pytest.raises(UserError, match="align"):
        images.image_grid([small], align="middle")


def test_image_files(saver, tmp_path):
    grid = [{"type": "rgb", "img": rgb(), "kwargs": {"data_format": "HWC"}}]
    path = saver.save_image_grid("it1-0.png", grid, name="n", step=1, texts=["a", "b"])
    assert path == str(tmp_path / "it1-0.png")
    assert imageio.imread(path).shape == (4, 6, 3)
    assert imageio.imread(saver.save_rgb_image("deep/er/a.png", rgb()))[0, 0].tolist() == [127] * 3
    assert imageio.imread(saver.save_grayscale_image("b.png", torch.rand(4, 6))).shape == (4, 6, 3)
    assert imageio.imread(saver.save_uv_image("c.png", torch.rand(4, 6, 2))).shape == (4, 6, 3)
    depth = np.array([[1000, 2000]], dtype=np.uint16)
    assert np.array_equal(imageio.imread(saver.save_image("d.png", depth)), depth)


@pytest.mark.parametrize("save_format", ["mp4", "gif"])
def test_sequence_is_in_numerical_order(saver, save_format):
    for index in (0, 2, 10):
        saver.save_rgb_image(f"it1-test/{index}.png", rgb(16, 18, index / 10))
    path = saver.save_img_sequence("it1-test", "it1-test", r"(\d+)\.png", save_format, fps=5)
    frames = [frame.mean() for frame in imageio.mimread(path)]
    assert path.endswith(save_format)
    assert imageio.mimread(path)[0].shape[:2] == (16, 18)
    assert len(frames) == 3
    assert frames == sorted(frames)
    with pytest.raises(UserError, match="no picture"):
        saver.save_img_sequence("x", "it1-test", r"(\d+)\.jpg")


def test_data(saver):
    assert np.load(saver.save_data("a", torch.arange(3))).tolist() == [0, 1, 2]
    assert np.load(saver.save_data("b", {"x": torch.ones(2)}))["x"].tolist() == [1, 1]
    with open(saver.save_json("c.json", {"x": 1})) as stream:
        assert json.load(stream) == {"x": 1}
    state = torch.load(saver.save_state_dict("d.pt", {"w": torch.ones(1)}), weights_only=True)
    assert state["w"].item() == 1
    with pytest.raises(TypeError, match="set"):
        saver.save_data("e", {1, 2})
    with pytest.raises(UserError, match="set_save_dir"):
        SaverMixin().get_save_path("x")


TETRAHEDRON = SimpleNamespace(
    v_pos=torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    t_pos_idx=torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
    v_nrm=torch.eye(4, 3),
    v_rgb=torch.rand(4, 3),
    v_tex=torch.rand(4, 2),
    t_tex_idx=torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
)


def test_obj_with_material_loads_elsewhere(saver):
    paths = saver.save_obj(
        "out/model.obj", TETRAHEDRON, save_mat=True, save_normal=True, save_uv=True,
        map_Kd=torch.rand(8, 8, 3), map_Pr=torch.rand(8, 8, 1),
    )  # fmt: skip
    names = sorted(path.rsplit("/", 1)[1] for path in paths)
    assert names == ["model.mtl", "model.obj", "texture_kd.jpg", "texture_roughness.jpg"]
    mesh = trimesh.load(paths[-1], process=False)
    assert mesh.volume == pytest.approx(1 / 6, abs=1e-5)
    assert mesh.visual.material.image.size == (8, 8)


def test_obj_and_its_material_refer_to_each_other_without_spaces(saver):
    texture = torch.rand(8, 8, 3)
    made = saver.save_obj(
        "out/a red  mug #1.obj", TETRAHEDRON, save_mat=True, save_uv=True, map_Kd=texture
    )
    mtl, obj = made[0], made[-1]
    assert obj.endswith("/a red  mug #1.obj") and mtl.endswith("/a_red_mug_1.mtl")
    lines = Path(obj).read_text().splitlines()
    assert "mtllib a_red_mug_1.mtl" in lines and "usemtl default" in lines
    assert trimesh.load(obj, process=False).visual.material.image.size == (8, 8)


def test_names_of_materials_are_single_words():
    triangle = (np.zeros((3, 3)), np.array([[0, 1, 2]]))
    obj = obj_text(*triangle, matname="blue glaze\t#2", mtllib="my mug.mtl").splitlines()
    mtl = mtl_text("blue glaze\t#2", {"map_Kd": "my texture.png"}).splitlines()
    assert obj[1] == "mtllib my_mug.mtl" and obj[3] == "usemtl blue_glaze_2"
    assert mtl[1] == "newmtl blue_glaze_2" and mtl[-1] == "map_Kd my_texture.png"


@pytest.mark.parametrize(
    ("options", "corner"),
    [({}, "1"), ({"v_nrm": 1}, "1//1"), ({"v_tex": 1}, "1/1"), ({"v_nrm": 1, "v_tex": 1}, "1/1/1")],
)
def test_obj_corners(options, corner):
    arrays = {"v_nrm": np.zeros((3, 3)), "v_tex": np.zeros((3, 2))}
    given = {key: arrays[key] for key in options}
    faces = np.array([[0, 1, 2]])
    text = obj_text(np.zeros((3, 3)), faces, t_tex_idx=faces, **given)
    face = next(line for line in text.splitlines() if line.startswith("f "))
    assert face.split()[1] == corner


def test_mesh_from_positions(saver):
    path = saver.save_mesh("model.ply", TETRAHEDRON.v_pos, TETRAHEDRON.t_pos_idx)
    assert trimesh.load(path).volume == pytest.approx(1 / 6, abs=1e-5)
