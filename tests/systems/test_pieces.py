"""Results do not depend on how many pieces of a batch are computed at the same time."""

import pytest
import torch

from threestudio_asd.parallel import splitting

STEPS = ("trainer.max_steps=3", "trainer.val_check_interval=1000", "pieces=4")
VIEWS = (
    *("data.width=16", "data.height=16", "data.batch_size=4", "data.n_val_views=1"),
    *("data.eval_width=8", "data.eval_height=8", "data.n_test_views=1"),
)
SYSTEMS = {
    "tiny/asd-2d.yaml": ("system.n_particles=4", "system.shape=null", "data.batch_size=4"),
    "tiny/asd-nerf.yaml": (*VIEWS, "system.renderer.num_samples_per_ray=24"),
    "tiny/asd-geometry.yaml": (
        *(*VIEWS, "system.geometry.isosurface_resolution=16", "system.geometry.shape_init=sphere"),
        *("system.geometry.shape_init_params=0.5", "system.geometry_convert_from=null"),
    ),
}


def checkpoint(trial):
    return torch.load(trial / "ckpts/last.ckpt", weights_only=True)


def tensors(value, path=""):
    """Path -> every tensor of a checkpoint."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    if not isinstance(value, dict | list | tuple):
        return {}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, x in items for k, v in tensors(x, f"{path}.{key}").items()}


@pytest.mark.parametrize(
    "method", ["asd", *(pytest.param(m, marks=pytest.mark.slow) for m in ("vsd", "sds"))]
)
@pytest.mark.parametrize(
    "config",
    [pytest.param(c, marks=pytest.mark.long if "nerf" in c else pytest.mark.slow) for c in SYSTEMS],
)
def test_training_is_equal_to_the_bit_on_any_number_of_threads(launch, tmp_path, config, method):
    found = []
    for threads in (1, 2, 4) if method == "asd" else (1, 4):
        with splitting(threads=threads):
            options = (*STEPS, *SYSTEMS[config], f"system.guidance.method={method}")
            assert launch(*options, f"tag={threads}", config=config) == 0
        found.append(tensors(checkpoint(tmp_path / f"outputs/test/{threads}")))
    one, *others = found
    # Weights and the optimiser's moments; of SDS there is no critic.
    assert len(one) > (4 if method == "sds" else 40)
    for more in others:
        assert more.keys() == one.keys()
        assert [key for key in one if not torch.equal(one[key], more[key])] == []


@pytest.mark.slow
def test_pieces_change_last_digits_only(launch, logged, trial):
    options = (*STEPS, *SYSTEMS["tiny/asd-nerf.yaml"], "trainer.max_steps=1")
    values = []
    for pieces in (1, 4):
        assert launch(*options, f"pieces={pieces}", config="tiny/asd-nerf.yaml") == 0
        values.append(checkpoint(trial)["state_dict"])
    for key, value in values[0].items():
        # One step of Adam moves a weight by its rate, whose sign a gradient of about zero decides.
        change = value.double() - values[1][key].double()
        assert change.abs().mean() < 1e-4, key


def test_a_trial_tells_its_pieces(launch, trial, capsys):
    small = (*SYSTEMS["tiny/asd-2d.yaml"], "trainer.max_steps=1")
    assert launch(*small, "pieces=3", config="tiny/asd-2d.yaml") == 0
    assert "\npieces: 3\n" in (trial / "configs/parsed.yaml").read_text()
    assert launch(*small, "pieces=0", config="tiny/asd-2d.yaml") == 2
    assert "pieces=0" in capsys.readouterr().err
