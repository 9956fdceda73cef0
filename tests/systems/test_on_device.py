"""The whole program on a device that refuses to mix with the CPU: it runs, and computes the same.

Every shipped configuration of the embedded world is taken along by itself.
"""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from pretended import pretended, tally
from processes import ROOT

from threestudio_asd.cli.main import main
from threestudio_asd.teachers import unet
from threestudio_asd.tiny.random_sd import write_random_sd

pytestmark = pytest.mark.on_device

CONFIGS = sorted(path.stem for path in (ROOT / "configs/tiny").glob("*.yaml"))
IN_2D = ("system.n_particles=2", "data.batch_size=2", "system.shape=null")
IN_3D = (
    *("data.width=12", "data.height=12", "data.eval_width=8", "data.eval_height=8"),
    *("data.batch_size=1", "data.n_val_views=1", "data.n_test_views=1"),
)
COARSE = (
    *(*IN_3D, "system.renderer.num_samples_per_ray=16", "trainer.val_check_interval=2"),
    *("system.geometry.isosurface_resolution=12",),
    "system.geometry.pos_encoding_config.log2_hashmap_size=11",
)
MESH = (
    *(*IN_3D, "system.geometry.isosurface_resolution=12", "system.geometry_convert_from=null"),
    *("system.geometry.shape_init=sphere", "system.geometry.shape_init_params=0.5"),
)


def small(config):
    """Overrides that make a step of a shipped configuration small."""
    if "2d" in config:
        return IN_2D
    return COARSE if "nerf" in config else MESH


#: How often a step may make the CPU wait, with logging at every step; and where it does so while it
#: saves, shows pictures, or renders the truth.
WAITS = {"nerf": 6, "geometry": 8, "texture": 8, "2d": 2}
BESIDE = (
    "studio/checkpoint/store.py",
    "studio/systems/saving.py",
    "systems/text_to_3d.py",
    "tiny/render.py",
)


def teachers(config, model):
    """Overrides for a guidance that asks for another model than the fixture's."""
    if config == "truth-score-nerf":  # knows the embedded world alone
        parts = ("guidance", "prompt_processor")
        return [
            f"system.{x}.pretrained_model_name_or_path=${{asd_model:tiny-shapes}}" for x in parts
        ]
    lora = f"system.guidance.pretrained_model_name_or_path_lora={model}"
    return [lora] if config == "vsd-nerf" else []


def losses(trial):
    """What the run logged of its losses, in its order."""
    (file,) = Path("outputs/test", trial).glob("csv_logs/*/metrics.csv")
    rows = csv.DictReader(file.open())
    return [
        float(value)
        for row in rows
        for key, value in row.items()
        if value and key.startswith("train/loss_")
    ]


def same_losses(launch, *overrides, **kwargs):
    """Train on the CPU, then on the device; returns what the device was waited for."""
    assert launch(*overrides, "tag=cpu", **kwargs) == 0
    with pretended(), tally() as counts:
        assert launch(*overrides, "tag=device", **kwargs) == 0
    found, expected = losses("device"), losses("cpu")
    assert found == pytest.approx(expected, rel=1e-5) and found
    return counts


@pytest.mark.long
@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_trains_goes_on_and_exports(launch, model, config):
    drop = ("system.guidance.pretrained_model_name_or_path",) if "pixels" in config else ()
    options = (*small(config), *teachers(config, model))
    counts = same_losses(launch, *options, config=f"tiny/{config}.yaml", drop=drop)
    assert len(counts.steps) == 2
    waits = {line: n for line, n in counts.steps[-1].items() if not any(b in line for b in BESIDE)}
    assert sum(waits.values()) <= WAITS[config.rpartition("-")[2]], waits
    last = "outputs/test/device/ckpts/last.ckpt"
    saved = torch.load(last, weights_only=True)["state_dict"]
    assert {type(value) for value in saved.values()} == {torch.Tensor}
    parsed = ["launch", "--config", "outputs/test/device/configs/parsed.yaml", f"resume={last}"]
    with pretended():
        assert main([*parsed, "--train", "trainer.max_steps=3", "tag=on"]) == 0
        if "2d" in config:
            assert main([*parsed, "--test"]) == 0
        elif "geometry" not in config:  # it has no colours to export
            assert main([*parsed, "--export"]) == 0
            assert list(Path("outputs/test/device/save").glob("it*-export/*"))


@pytest.mark.long
@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_trains_in_half_precision(launch, model, monkeypatch, config):
    """As it does on CUDA: the teacher's networks in float16, critic and scene in float32."""
    drop = ("system.guidance.pretrained_model_name_or_path",) if "pixels" in config else ()
    options = (*small(config), *teachers(config, model), "tag=half")
    with pretended() as place:
        monkeypatch.setattr(unet, "HALF_PRECISION", {place.type})
        assert launch(*options, config=f"tiny/{config}.yaml", drop=drop) == 0
    found = losses("half")
    assert found and all(map(math.isfinite, found))
    last = torch.load("outputs/test/half/ckpts/last.ckpt", weights_only=True)["state_dict"]
    assert all(x.dtype != torch.float16 and x.isfinite().all() for x in last.values())


STAGES = (
    *("data.width=16", "data.height=16", "data.batch_size=1"),
    *("data.eval_width=16", "data.eval_height=16", "data.n_val_views=1", "data.n_test_views=1"),
    *("trainer.val_check_interval=2", "trainer.max_steps=2"),
    "coarse:system.renderer.num_samples_per_ray=32",
    "coarse:system.geometry.isosurface_threshold=auto",
    "geometry:system.geometry.isosurface_resolution=16",
    "texture:system.geometry.isosurface_resolution=16",
    "geometry:system.geometry_convert_override.isosurface_threshold=auto",
    "texture:system.exporter.texture_size=32",
)


@pytest.mark.long
def test_all_stages_in_one_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pretended():
        assert main(["demo", "--full", "--prompt", "a red mug", *STAGES]) == 0
    assert [*tmp_path.glob("outputs/demo/*/texture/save/*-export/*.glb")]


@pytest.mark.parametrize("representation", ["2d", "nerf"])
def test_a_cell_of_a_comparison(tmp_path, monkeypatch, representation):
    monkeypatch.chdir(tmp_path)
    flags = ("--methods", "ASD -0.75", "--scales", "7.5", "--prompts", "a red mug", "--seeds", "0")
    command = ["compare", "--config", f"compare/{representation}", *flags, "--steps", "2"]
    with pretended():
        assert main([*command, "--jobs", "1", "--out", "out"]) == 0
    (record,) = tmp_path.glob("out/cells/*.json")
    found = json.loads(record.read_text())
    assert all(map(math.isfinite, found["p_pair"]))


def test_accumulated_batches_and_several_steps_of_the_critic(launch):
    options = ("trainer.accumulate_grad_batches=2", "system.guidance.lora_n_steps=2")
    same_losses(launch, *IN_2D, *options, "trainer.max_steps=1")


def test_pixels_are_encoded_in_every_step(launch):
    # Without the CPU's losses: noise is drawn in the latents' layout in memory, which differs.
    with pretended():
        assert launch(*IN_2D, "system.parametrization=pixels", "trainer.max_steps=1") == 0


def test_pictures_of_the_guidance(launch):
    options = ("system.guidance_eval=true", "trainer.max_steps=1")
    with pretended():
        assert launch(*COARSE, *options, config="tiny/asd-nerf.yaml") == 0


def test_several_views_of_each_scene(launch, tmp_path):
    folder = write_random_sd(tmp_path / "views", views=4)
    parts = ("guidance", "prompt_processor")
    models = [f"system.{part}.pretrained_model_name_or_path={folder}" for part in parts]
    models += ["system.guidance.teacher_type=stable-diffusion"]
    sizes = ("data.batch_size=4", "data.resolution_milestones=[]", "trainer.max_steps=1")
    same_losses(launch, *COARSE, *sizes, *models, config="asd-mvdream.yaml")


OTHERS = {"dreamfusion-system": "sds-nerf", "prolificdreamer-system": "vsd-nerf"}


@pytest.mark.parametrize(("system", "config"), OTHERS.items())
def test_threestudios_systems(launch, model, system, config):
    options = (*small(config), *teachers(config, model), f"system_type={system}")
    drop = ("system.stage",) if config == "sds-nerf" else ()
    same_losses(launch, *options, "trainer.max_steps=1", config=f"tiny/{config}.yaml", drop=drop)
