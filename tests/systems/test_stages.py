"""The geometry and texture stages: where they start, what they train, and that they resume."""

import csv

import pytest
import torch

SMALL = (
    *("data.width=16", "data.height=16", "data.batch_size=1", "trainer.val_check_interval=1000"),
    *("data.eval_width=8", "data.eval_height=8", "data.n_val_views=1", "data.n_test_views=1"),
)
COARSE = (*SMALL, "system.renderer.num_samples_per_ray=24")
MESH = (*SMALL, "system.geometry.isosurface_resolution=16")
SPHERE = (
    "system.geometry_convert_from=null",
    "system.geometry.shape_init=sphere",
    "system.geometry.shape_init_params=0.5",
)
AUTO = "system.geometry_convert_override.isosurface_threshold=auto"


def start(trial):
    return f"system.geometry_convert_from={trial}/ckpts/last.ckpt"


def state(trial, file="last.ckpt"):
    return torch.load(trial / "ckpts" / file, weights_only=True)["state_dict"]


def losses(trial):
    """Step -> logged losses, over all CSV files of a trial."""
    found = {}
    for file in sorted(trial.glob("csv_logs/*/metrics.csv")):
        for row in csv.DictReader(file.open()):
            if row.get("train/loss_asd"):
                found[int(row["step"])] = [v for k, v in row.items() if k.startswith("train/loss_")]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["geometry", "texture"])
def test_a_stage_resumes_with_equal_losses(launch, tmp_path, stage):
    options = (*MESH, *SPHERE, "trainer.max_steps=6", "checkpoint.every_n_train_steps=3")
    assert launch(*options, "tag=whole", config=f"tiny/asd-{stage}.yaml") == 0
    whole = losses(tmp_path / "outputs/test/whole")
    assert sorted(whole) == list(range(6))
    (checkpoint,) = (tmp_path / "outputs/test/whole/ckpts").glob("*step=3.ckpt")
    # The shape it once started from is not needed any more.
    gone = "system.geometry_convert_from=gone/ckpts/last.ckpt"
    resume = (f"resume={checkpoint}", "tag=resumed", gone)
    assert launch(*options, *resume, config=f"tiny/asd-{stage}.yaml") == 0
    resumed = losses(tmp_path / "outputs/test/resumed")
    assert resumed == {step: whole[step] for step in (3, 4, 5)}


@pytest.mark.parametrize(
    "method", ["asd", *(pytest.param(m, marks=pytest.mark.slow) for m in ("vsd", "sds"))]
)
def test_the_geometry_stage_starts_from_any_method(launch, model, trial, tmp_path, method):
    critic = {
        "asd": (),
        "sds": (),
        "vsd": (f"system.guidance.pretrained_model_name_or_path_lora={model}",),
    }[method]
    assert launch(*COARSE, *critic, "tag=coarse", config=f"tiny/{method}-nerf.yaml") == 0
    coarse = tmp_path / "outputs/test/coarse"
    assert launch(*MESH, AUTO, start(coarse), config="tiny/asd-geometry.yaml") == 0
    assert (trial / "save/it2-test.mp4").is_file()
    sdf = state(trial)["geometry.sdf"]
    assert sdf.min() < 0 < sdf.max()


def test_geometry_moves_the_shape_and_texture_keeps_it(launch, trial, tmp_path):
    assert launch(*MESH, *SPHERE, "trainer.max_steps=1", config="tiny/asd-geometry.yaml") == 0
    first = state(trial)
    more = ("trainer.max_steps=3", f"resume={trial}/ckpts/last.ckpt")
    assert launch(*MESH, *SPHERE, *more, config="tiny/asd-geometry.yaml") == 0
    moved = state(trial)
    for name in ("geometry.sdf", "geometry.deformation"):
        assert not torch.equal(first[name], moved[name])
    assert launch(*MESH, start(trial), "tag=texture", config="tiny/asd-texture.yaml") == 0
    textured = state(tmp_path / "outputs/test/texture")
    for name in ("geometry.sdf", "geometry.deformation", "geometry.isosurface_bbox"):
        assert torch.equal(moved[name], textured[name])
    assert [name for name in textured if name.startswith("geometry.encoding")]


def test_threestudios_own_second_stage_is_there(launch, trial):
    # prolificdreamer-system, stage geometry, guided by SDS on normals.
    options = (
        *("system_type=prolificdreamer-system", "system.guidance_type=stable-diffusion-guidance"),
        *("system.loss.lambda_sds=1.0", "system.guidance.guidance_scale=100"),
    )
    keys = ["gamma", "gamma_target", "share_noise", "lora_rank"]
    drop = [f"system.guidance.{key}" for key in keys]
    drop += ["system.loss.lambda_asd", "system.loss.lambda_lora"]
    drop += ["system.optimizer.params.guidance"]
    assert launch(*MESH, *SPHERE, *options, config="tiny/asd-geometry.yaml", drop=drop) == 0
    assert (trial / "ckpts/last.ckpt").is_file()


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("geometry", (), "leaves system.geometry_convert_from open"),
        ("geometry", (start("gone"),), "gone/ckpts/last.ckpt does not exist"),
        ("geometry", ("system.geometry_convert_from=null",), "start from an earlier stage with"),
        ("texture", ("system.geometry_convert_from=null",), "start from an earlier stage with"),
    ],
)
def test_mistakes_are_told_in_one_line(launch, capsys, config, overrides, message):
    assert launch(*MESH, *overrides, config=f"tiny/asd-{config}.yaml") == 2
    error = capsys.readouterr().err.partition("error: ")[2]
    assert message in error and "\n" not in error.strip()
