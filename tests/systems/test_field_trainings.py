"""Noise fields in trainings, from the command line."""

import pytest
import torch

VIEWS = (
    *("data.width=16", "data.height=16", "data.eval_width=16", "data.eval_height=16"),
    *("data.n_val_views=1", "data.n_test_views=2", "trainer.val_check_interval=1000"),
)
SMALL = (*VIEWS, "system.renderer.num_samples_per_ray=16")
NERF, METHOD = "tiny/asd-nerf.yaml", "system.guidance.method"


def state(folder):
    return torch.load(folder / "ckpts/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.long
@pytest.mark.parametrize("method", [pytest.param("fsd", marks=pytest.mark.slow), "cfd"])
def test_a_resumed_nerf_ends_as_an_uninterrupted_one(launch, trial, method):
    options = (*SMALL, f"{METHOD}={method}", "system.guidance.settings={noise_refresh: 0.2}")
    options += ("trainer.max_steps=4", "checkpoint.every_n_train_steps=2")
    assert launch(*options, config=NERF) == 0
    (checkpoint,) = trial.glob("ckpts/*step=2.ckpt")
    assert launch(*options, "tag=again", f"resume={checkpoint}", config=NERF) == 0
    whole, resumed = state(trial), state(trial.parent / "again")
    field = f"guidance.fields.by_name.{'world-map' if method == 'fsd' else 'surface-noise'}"
    assert {name.rpartition(".")[0] for name in whole if "fields" in name} == {field}
    assert whole.keys() == resumed.keys()
    assert all(whole[name].equal(resumed[name]) for name in whole)
    start = torch.load(checkpoint, weights_only=True)["state_dict"]
    moved = {name for name in start if not start[name].equal(whole[name])}
    assert {name for name in whole if name.startswith(field)} <= moved
    assert any(name.startswith("geometry") for name in moved)


def test_options_of_a_field_come_from_the_config(launch, trial):
    options = (*SMALL, f"{METHOD}=fsd", "system.guidance.noise_field={theta: 90}")
    assert launch(*options, "trainer.max_steps=1", config=NERF) == 0
    assert state(trial)["guidance.fields.by_name.world-map.world"].shape == (4, 16, 32)


@pytest.mark.parametrize("stage", ["geometry", "texture"])
def test_a_meshs_surface_has_noise(launch, logged, trial, stage):
    start = ("geometry_convert_from=null", "geometry.shape_init=sphere")
    start += ("geometry.shape_init_params=0.5", "geometry.isosurface_resolution=16")
    options = (*VIEWS, *(f"system.{key}" for key in start), f"{METHOD}=cfd")
    assert launch(*options, "trainer.max_steps=1", config=f"tiny/asd-{stage}.yaml") == 0
    assert logged()["train/grad_norm"][0] > 0


@pytest.mark.parametrize("method", ["fsd-2d", "cfd-2d"])
def test_particles_share_one_noise(launch, logged, trial, method):
    two = ("system.n_particles=2", "data.batch_size=2", "system.shape=null")
    assert launch(*two, f"{METHOD}={method}") == 0
    assert logged()["train/grad_norm"][0] > 0
    background = state(trial)["guidance.fields.by_name.fixed-noise.background"]
    assert background.shape[0] == 1 and background.std() > 0.8


def test_particles_have_a_noise_each(launch, trial):
    """Rows alike but for their noise: from zeros, at one t, particles differ by nothing else."""
    shape = ("system.n_particles=2", "data.batch_size=2", "system.shape=null", "system.init_std=0")
    steady = ("system.guidance.min_step_percent=0.5", "system.guidance.max_step_percent=0.5")
    alike = []
    for count in (1, 2):
        option = f"system.guidance.noise_field.particles={count}"
        assert launch(*shape, *steady, f"{METHOD}=fsd-2d", option, f"tag=run{count}") == 0
        first, second = state(trial.parent / f"run{count}")["particles.value"]
        alike.append(bool(torch.allclose(first, second, atol=1e-4)))
    assert alike == [True, False]


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        ((f"{METHOD}=fsd",), "asd-2d.yaml", "for images the method fsd-2d"),
        ((f"{METHOD}=cfd",), "asd-2d.yaml", "no depth, opacity. For images choose cfd-2d"),
        (
            (f"{METHOD}=fsd", "system.guidance.noise_field={thta: 90}"),
            NERF,
            "did you mean theta",
        ),
        (
            (f"{METHOD}=fsd", "system.guidance.settings={sqrt_beta: 2}"),
            NERF,
            "sqrt_beta, a noise field's share of the noise, is 2",
        ),
    ],
)
def test_what_a_field_lacks_is_told(launch, capsys, options, config, message):
    small = SMALL if config == NERF else ("system.n_particles=2", "data.batch_size=2")
    shape = () if config == NERF else ("system.shape=null",)
    assert launch(*small, *shape, *options, config=config) == 2
    assert message in capsys.readouterr().err.partition("error: ")[2]
