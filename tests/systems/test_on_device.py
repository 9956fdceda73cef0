"""The whole program on a device that refuses to mix with the CPU: it runs, and computes the same.

Every shipped configuration of the embedded world, method and weighting is taken along by itself.
"""

import csv
from pathlib import Path

import pytest
import torch
from pretended_device import pretended, tally
from processes import ROOT

from threestudio_asd.cli.main import main
from threestudio_asd.distill.methods import METHODS
from threestudio_asd.distill.weighting import WEIGHTINGS

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


@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_trains_goes_on_and_exports(launch, config):
    counts = same_losses(launch, *small(config), config=f"tiny/{config}.yaml")
    assert len(counts.steps) == 2
    last = "outputs/test/device/ckpts/last.ckpt"
    saved = torch.load(last, weights_only=True)["state_dict"]
    assert {type(value) for value in saved.values()} == {torch.Tensor}
    parsed = ["launch", "--config", "outputs/test/device/configs/parsed.yaml", f"resume={last}"]
    with pretended():
        assert main([*parsed, "--train", "trainer.max_steps=3", "tag=on"]) == 0
        assert main([*parsed, "--test"]) == 0
        if "2d" not in config:
            assert main([*parsed, "--export"]) == 0
            assert list(Path("outputs/test/device/save").glob("it*-export/*"))


def with_loss(method):
    """The configuration's loss weights are for ASD; a method without a critic needs no others."""
    return (f"system.guidance.method={method}",)


GUIDANCE = {
    "prompts for the view": ("view_dependent_prompting=true",),
    "the official gamma": ("gamma_target=official",),
    "own draws": ("share_noise=false",),
    "several draws": ("share_noise=false", "lora_n_timestamp_samples=2"),
    "several steps of the critic": ("lora_n_steps=2",),
    "a scale of the critic": ("guidance_scale_lora=2", "camera_condition_type=extrinsics"),
    "the camera": ("camera_condition_type=extrinsics",),
    "the camera's projection": ("camera_condition_type=mvp",),
    "no camera dropped": ("camera_condition_type=extrinsics", "lora_cfg_training=false"),
    "rescaled": ("guidance_rescale=0.7",),
    "clipped": ("grad_clip=0.5",),
    "channels last": ("enable_channels_last_format=true",),
    **{f"method {name}": (f"method={name}",) for name in METHODS},
    **{f"weighting {name}": (f"weighting_strategy={name}",) for name in WEIGHTINGS},
}


@pytest.mark.parametrize("options", GUIDANCE.values(), ids=GUIDANCE)
def test_an_option_of_the_guidance(launch, options):
    same_losses(launch, *IN_2D, *(f"system.guidance.{option}" for option in options))


OTHERS = {
    "pixels": ("system.parametrization=pixels",),
    "accumulated": ("trainer.accumulate_grad_batches=2",),
    "perp-neg": ("system.prompt_processor.use_perp_neg=true",),
    "pictures of the guidance": ("system.guidance_eval=true",),
    "Adam": ("system.optimizer.name=Adam",),
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_another_option(launch, options):
    same_losses(launch, *IN_2D, *options)


def test_threestudios_systems(launch, model):
    critic = f"system.guidance.pretrained_model_name_or_path_lora={model}"
    sds = ("system_type=dreamfusion-system",)
    same_losses(launch, *COARSE, *sds, config="tiny/sds-nerf.yaml", drop=("system.stage",))
    vsd = ("system_type=prolificdreamer-system", critic)
    same_losses(launch, *COARSE, *vsd, config="tiny/vsd-nerf.yaml")
