"""Every shipped YAML trains, on a tiny random model and with sizes cut down."""

from pathlib import Path

import pytest

from threestudio_asd.cli.main import main
from threestudio_asd.tiny.random_sd import write_random_sd

CONFIGS = Path(__file__).parent.parent / "configs"
# Those of compare/ are grids over the others.
NAMES = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob("*.yaml")
    if path.parent.name != "compare"
)

SMALL = (
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "data.eval_height=16",
    "data.eval_width=16",
    "data.n_val_views=1",
    "data.n_test_views=2",
)
SMALL_NERF = (
    "data.width=16",
    "data.height=16",
    "data.batch_size=1",
    "data.resolution_milestones=[]",
    "system.renderer.num_samples_per_ray=32",
    "system.geometry.pos_encoding_config.log2_hashmap_size=12",
)
SMALL_2D = ("data.batch_size=2", "system.n_particles=2", "system.shape=null")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        kind: write_random_sd(folder / kind, prediction_type=kind, seed=i)
        for i, kind in enumerate(("epsilon", "v_prediction"))
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_config_trains_two_steps(name, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher, critic = models["epsilon"], models["v_prediction"]
    overrides = [
        *SMALL,
        *(SMALL_2D if "2d" in name else SMALL_NERF),
        f"system.prompt_processor.pretrained_model_name_or_path={teacher}",
        "system.prompt_processor.prompt=a red mug",
        f"system.guidance.pretrained_model_name_or_path={teacher}",
        "use_timestamp=false",
        "tag=run",
    ]
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
