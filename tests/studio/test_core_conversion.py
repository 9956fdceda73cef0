"""A stage that starts from an earlier trial's geometry: from a trained volume, and its mistakes."""

from pathlib import Path

import pytest
import torch
import toy_extension  # noqa: F401  (registers the toy's data in this process)
import yaml

from threestudio_asd.cli import main as cli
from threestudio_asd.errors import UserError
from threestudio_asd.host import BaseLift3DSystem, register
from threestudio_asd.studio.checkpoint.store import save_atomically

ENCODING = {
    "otype": "HashGrid",
    "n_levels": 2,
    "n_features_per_level": 2,
    "log2_hashmap_size": 8,
    "base_resolution": 4,
    "per_level_scale": 1.5,
}
MLP = {"otype": "VanillaMLP", "activation": "ReLU", "n_neurons": 8, "n_hidden_layers": 1}
NETWORKS = {"pos_encoding_config": ENCODING, "mlp_network_config": MLP}


@register("toy-lift3d-system")
class ToyLift3DSystem(BaseLift3DSystem):
    """Trains the geometry at random points; its test writes nothing."""

    def training_step(self, batch, batch_idx):
        points = torch.rand(64, 3) - 0.5
        out = self.geometry(points)
        return sum(value.square().mean() for value in out.values())

    def validation_step(self, batch, batch_idx):
        pass

    on_validation_epoch_end = test_step = lambda self, *args: None


def config(geometry_type, geometry, **system):
    parts = {
        "geometry_type": geometry_type,
        "geometry": {**NETWORKS, **geometry},
        "material_type": "no-material",
        "background_type": "solid-color-background",
        "renderer_type": "nerf-volume-renderer",
        "renderer": {"grid_prune": False},
        "optimizer": {"name": "Adam", "args": {"lr": 0.01}},
    }
    return {
        "name": "stages",
        "use_timestamp": False,
        "data_type": "toy-data",
        "system_type": "toy-lift3d-system",
        "system": {**parts, **system},
        "trainer": {
            "max_steps": 3,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
        },
        "checkpoint": {"save_last": True},
    }


def train(cfg, tag, *arguments):
    Path(f"{tag}.yaml").write_text(yaml.safe_dump({**cfg, "tag": tag}))
    code = cli.main(["launch", "--config", f"{tag}.yaml", "--train", *arguments])
    checkpoint = f"outputs/stages/{tag}/ckpts/last.ckpt"
    return code, checkpoint


def weights(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]


VOLUME = config("implicit-volume", {"isosurface_threshold": 99.0, "normal_type": None})
START = {
    "geometry_convert_inherit_texture": True,
    "geometry_convert_override": {"isosurface_threshold": 3.0},
}


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """The checkpoint of a volume that was trained three steps."""
    monkeypatch.chdir(tmp_path)
    code, checkpoint = train(VOLUME, "volume@1")
    assert code == 0
    return checkpoint


def system(checkpoint, cfg=None, **changes):
    """The second stage, built and not trained."""
    cfg = config("tetrahedra-sdf-grid", {"isosurface_resolution": 24, **(cfg or {})}, **START)
    return ToyLift3DSystem({**cfg["system"], "geometry_convert_from": checkpoint, **changes})


def test_a_trained_volume_becomes_a_grid_which_is_trained_and_resumed(trial):
    start = {**START, "geometry_convert_from": "outputs/stages/volume@LAST/ckpts/last.ckpt"}
    second = config("tetrahedra-sdf-grid", {"isosurface_resolution": 24}, **start)
    code, checkpoint = train(second, "grid")
    assert code == 0
    found, volume = weights(checkpoint), weights(trial)
    assert found["geometry.sdf"].shape == (11**3 + 10**3, 1)
    # The tight box of the ball, not the whole scene; features go on from the volume's.
    assert 0.2 < found["geometry.isosurface_bbox"].max() < 0.8
    started = system(trial).geometry
    same = volume["geometry.feature_network.layers.0.weight"]
    torch.testing.assert_close(started.feature_network.layers[0].weight.detach(), same)
    moved = (found["geometry.feature_network.layers.0.weight"] - same).abs().max()
    assert 0 < moved < 0.1
    # The earlier trial is not needed any more.
    code, _ = train(
        second, "grid", f"resume={checkpoint}", "system.geometry_convert_from=gone.ckpt",
        "trainer.max_steps=4",
    )  # fmt: skip
    assert code == 0
    torch.testing.assert_close(
        weights(checkpoint)["geometry.isosurface_bbox"], found["geometry.isosurface_bbox"]
    )


def test_without_inheritance_features_start_anew(trial):
    inherited, own = system(trial), system(trial, geometry_convert_inherit_texture=False)
    assert torch.equal(inherited.geometry.sdf, own.geometry.sdf)
    points = torch.rand(9, 3) - 0.5
    new, old = own.geometry(points)["features"], inherited.geometry(points)["features"]
    assert not torch.equal(new, old)


def test_weights_come_before_the_earlier_stage(trial):
    made = system(trial)
    state = {"state_dict": made.state_dict(), "epoch": 0, "global_step": 7}
    save_atomically(state, "grid.ckpt")
    again = system("gone.ckpt", weights="grid.ckpt")
    assert torch.equal(again.geometry.sdf, made.geometry.sdf)


def test_a_shape_to_start_from_is_set():
    cfg = {"shape_init": "sphere", "shape_init_params": 0.4}
    geometry = system(None, cfg).geometry
    assert (geometry.isosurface().v_pos.norm(dim=-1) - 0.4).abs().max() < 0.02


def _move(trial):
    save_atomically(torch.load(trial, weights_only=True), "elsewhere/ckpts/last.ckpt")
    return "elsewhere/ckpts/last.ckpt"


def _cut(trial):
    data = Path(trial).read_bytes()
    Path(trial).write_bytes(data[: len(data) // 2])
    return trial


def _change(key, value):
    def change(trial):
        path = Path("outputs/stages/volume@1/configs/parsed.yaml")
        cfg = yaml.safe_load(path.read_text())
        cfg["system"][key] = value
        path.write_text(yaml.safe_dump(cfg))
        return trial

    return change


def _without_geometry(trial):
    state = {"state_dict": {"image": torch.zeros(1)}, "epoch": 0, "global_step": 1}
    save_atomically(state, trial)
    return trial


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda trial: "gone.ckpt", "gone.ckpt does not exist"),
        (lambda trial: "outputs/stages/other@LAST/ckpts/last.ckpt", "run the earlier stage first"),
        (lambda trial: trial.replace("volume@1", "volume@LAST").replace("last.", "x."), "did the"),
        (_cut, "damaged or incomplete"),
        (_move, r"elsewhere/configs/parsed\.yaml.*does not exist"),
        (_change("geometry_type", ""), "has no geometry"),
        (_change("geometry_type", "implicit-volum"), "implicit-volume"),
        (_change("geometry", {**NETWORKS, "n_feature_dims": 5}), "belongs to another config"),
        (_without_geometry, 'no module "geometry"; it has image'),
    ],
)
def test_wrong_checkpoints(trial, spoil, words):
    with pytest.raises(UserError, match=words) as caught:
        system(spoil(trial))
    assert "\n" not in str(caught.value)


def test_wrong_overrides(trial):
    with pytest.raises(UserError, match="isosurface_threshhold"):
        system(trial, geometry_convert_override={"isosurface_threshhold": 1.0})
    with pytest.raises(UserError, match="No surface at isosurface_threshold 99"):
        system(trial, geometry_convert_override={})
