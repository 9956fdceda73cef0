"""Stages one after the other: what is planned, and that a stopped run goes on."""

import pytest
import torch
import trimesh

from threestudio_asd.cli import main as cli
from threestudio_asd.cli.stages import SD, TINY, plan
from threestudio_asd.errors import UserError

SIZES = (
    *("data.width=16", "data.height=16", "data.batch_size=1"),
    *("data.eval_width=16", "data.eval_height=16", "data.n_val_views=1", "data.n_test_views=2"),
    *("trainer.enable_progress_bar=false", "trainer.val_check_interval=3", "trainer.max_steps=3"),
    "coarse:system.renderer.num_samples_per_ray=32",
    "coarse:system.geometry.isosurface_threshold=auto",
    "geometry:system.geometry.isosurface_resolution=16",
    "texture:system.geometry.isosurface_resolution=16",
    "geometry:system.geometry_convert_override.isosurface_threshold=auto",
    "texture:system.exporter.texture_size=32",
)


def stages(tmp_path, *overrides):
    where = ["--tiny", "--prompt", "a red mug", "--out", str(tmp_path / "run")]
    return cli.main(["stages", *where, *SIZES, *overrides])


def step(trial):
    return torch.load(trial / "ckpts/last.ckpt", weights_only=True)["global_step"]


def test_overrides_go_to_all_stages_or_to_one(tmp_path):
    planned = plan(TINY, tmp_path, ["a=1", "texture:b=x:y", "coarse:c=2", "d=http://e"])
    assert [s.name for s in planned] == ["coarse", "geometry", "texture"]
    assert [s.overrides for s in planned] == [
        ["a=1", "d=http://e", "c=2"],
        ["a=1", "d=http://e"],
        ["a=1", "d=http://e", "b=x:y"],
    ]
    assert [s.trial.name for s in plan(SD, tmp_path, [])] == ["coarse", "geometry", "texture"]


@pytest.mark.parametrize(
    ("configs", "overrides", "message"),
    [
        (TINY[:1], ["texture:a=1"], "there is no stage texture; use coarse"),
        ((TINY[0], TINY[0]), [], "one is twice"),
        (TINY, ["resume=a.ckpt"], "goes on where it was"),
        (TINY, ["geometry:resume=a.ckpt"], "goes on where it was"),
        (["no/such"], [], "there is no config no/such"),
    ],
)
def test_mistakes_are_told(tmp_path, configs, overrides, message):
    with pytest.raises(UserError, match=message):
        plan(configs, tmp_path, overrides)


@pytest.mark.slow
def test_three_stages_make_a_textured_mesh_and_go_on_after_a_stop(tmp_path, capsys):
    xatlas = pytest.importorskip("xatlas")
    assert xatlas is not None
    run = tmp_path / "run"
    # A run whose second stage fails: what came before stays.
    assert stages(tmp_path, "geometry:system.loss.lambda_asd=[1]") == 2
    assert step(run / "coarse") == 3
    made = (run / "coarse/ckpts/last.ckpt").stat().st_mtime_ns
    capsys.readouterr()
    assert stages(tmp_path) == 0
    assert (run / "coarse/ckpts/last.ckpt").stat().st_mtime_ns == made
    assert [step(run / name) for name in ("geometry", "texture")] == [3, 3]
    geometry, texture = (
        torch.load(run / name / "ckpts/last.ckpt", weights_only=True)["state_dict"]
        for name in ("geometry", "texture")
    )
    for name in ("geometry.sdf", "geometry.deformation", "geometry.isosurface_bbox"):
        assert torch.equal(geometry[name], texture[name])
    (path,) = (run / "texture/save").glob("it3-export/*.glb")
    (mesh,) = trimesh.load(path, process=False).geometry.values()
    assert mesh.visual.material.baseColorTexture.size == (32, 32)
    # Asked for more steps, the last stage goes on from where it was.
    assert stages(tmp_path, "texture:trainer.max_steps=5") == 0
    assert step(run / "texture") == 5
    assert step(run / "geometry") == 3
