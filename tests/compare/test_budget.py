"""A budget of UNet evaluations: how many steps a row takes, and what its schedules make of it."""

import pytest
import torch
from omegaconf import OmegaConf

from threestudio_asd.compare.grid import load_grid
from threestudio_asd.compare.run.train import train
from threestudio_asd.distill import METHODS
from threestudio_asd.errors import UserError

GRID = """
steps: 300
evaluations: 600
scales: []
prompts: [a red mug]
seeds: [0]
overrides: {system.guidance.min_step_percent: [0, 0.9, 0.1, "${idiv:${steps},2}"]}
methods:
  SDS:
    overrides: {system.guidance.method: sds}
    evaluations: 2
    scale: 100
  SDI:
    overrides:
      system.guidance.method: sdi
      system.guidance.max_step_percent: [0, 0.98, 0.02, "${steps}"]
    evaluations: 15
    scale: 8.5
  VSD:
    overrides: {system.guidance.method: vsd}
    scale: 7.5
"""
SECOND = "SDI, 600 evaluations"


@pytest.fixture
def budget(tmp_path):
    def load(text=GRID, **flags):
        (tmp_path / "grid.yaml").write_text(text)
        return load_grid(str(tmp_path / "grid.yaml"), **flags)

    return load


def configs(grid):
    first = (None, grid.cfg.prompts[0], grid.cfg.seeds[0])
    return {method: grid.config(grid.cell(method, *first)) for method in grid.rows}


def test_a_row_runs_again_with_as_many_steps_as_its_evaluations_buy(budget):
    """Unless these are the grid's steps, or the row does not say what a step costs."""
    grid = budget()
    found = configs(grid)
    steps = {method: int(cfg.trainer.max_steps) for method, cfg in found.items()}
    assert steps == {"SDS": 300, "SDI": 300, SECOND: 40, "VSD": 300}
    assert {method: grid.steps(method) for method in grid.rows} == steps
    assert grid.length == "300 steps, or 600 UNet evaluations of each picture"
    assert len({grid.config_hash(cell) for cell in grid.cells}) == len(grid.cells) == 4
    assert {cell.name for cell in grid.cells} >= {"sdi_600_evaluations_s8.5_a_red_mug_seed0"}


def test_schedules_count_the_rows_own_steps(budget):
    found = configs(budget())
    ends = {m: (c.system.guidance.min_step_percent[3], c) for m, c in found.items()}
    assert {method: end for method, (end, _) in ends.items()} == {
        **{"SDS": 150, "SDI": 150, "VSD": 150},
        SECOND: 20,
    }
    assert list(found[SECOND].system.guidance.max_step_percent) == [0, 0.98, 0.02, 40]
    assert list(found["SDI"].system.guidance.max_step_percent) == [0, 0.98, 0.02, 300]
    # All else is alike.
    one, two = (OmegaConf.to_container(found[m].system) for m in ("SDI", SECOND))
    assert {k for k in one if one[k] != two[k]} == {"guidance"}


def test_a_flag_moves_both(budget):
    """Steps of the command line are those that ``${steps}`` counts."""
    found = configs(budget(steps=40))
    assert list(found) == ["SDS", "SDS, 600 evaluations", "SDI", "VSD"]
    assert found["SDI"].system.guidance.max_step_percent[3] == 40
    assert found["SDS, 600 evaluations"].trainer.max_steps == 300


def test_a_budget_alone(budget):
    rows = GRID.replace("steps: 300", "steps: null")
    with pytest.raises(UserError, match="how many steps does VSD take"):
        budget(rows)
    grid = budget(rows.replace("{system.guidance.method: vsd}", "{}\n    evaluations: 3"))
    assert {m: int(c.trainer.max_steps) for m, c in configs(grid).items()} == {
        **{"SDS": 300, "SDI": 40, "VSD": 200}
    }
    assert grid.length == "600 UNet evaluations of each picture"


def test_rows_may_all_have_scales_of_their_own(budget):
    grid = budget()
    assert grid.scales == [None]
    assert {cell.method: cell.scale for cell in grid.cells} == {
        **{"SDS": 100.0, "SDI": 8.5, SECOND: 8.5, "VSD": 7.5}
    }
    assert configs(grid)[SECOND].system.guidance.guidance_scale == 8.5
    with pytest.raises(UserError, match="scales is empty"):
        budget(GRID.replace("    scale: 7.5", ""))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("evaluations: 600", "evaluations: 0", "evaluations=0; at least 1"),
        ("evaluations: 15", "evaluations: -1", "SDI: evaluations=-1; more than 0"),
        ("steps: 300", "steps: 1", "at least 2"),
        ("seeds:", "front: [beauty]\nseeds:", "no measure beauty; choose of: right"),
    ],
)
def test_mistakes_are_told(budget, old, new, message):
    with pytest.raises(UserError, match=message):
        budget(GRID.replace(old, new))


@pytest.mark.parametrize("name", ["family", "family-nerf"])
def test_the_family_costs_alike_or_steps_alike(name):
    grid = load_grid(f"compare/{name}")
    assert grid.cfg.evaluations == 2 * grid.cfg.steps
    for method, cfg in configs(grid).items():
        steps, per_step = int(cfg.trainer.max_steps), grid.rows[method].evaluations
        if "evaluations" in method:
            assert steps * per_step == pytest.approx(grid.cfg.evaluations, rel=0.02)
        else:
            assert steps == grid.cfg.steps
        asked = cfg.system.guidance
        fields = ("cfd-2d", "fsd-2d", "cds", "dsd")  # each particle's own noise
        falls = asked.method in (*fields, "cfd", "fsd", "sdi", "jsd")
        assert (asked.min_step_percent == asked.max_step_percent) == falls
        if falls:
            assert asked.max_step_percent[-1] == steps
        if asked.method in fields and name == "family":
            assert asked.noise_field.particles == cfg.system.n_particles


def test_scales_are_chosen_on_prompts_that_are_not_reported():
    chosen_on = set(load_grid("compare/family-scales").cfg.prompts)
    for name in ("family", "family-nerf"):
        assert not chosen_on & set(load_grid(f"compare/{name}").cfg.prompts)


def test_every_nerf_row_has_sds_weight_of_the_loss():
    """lambda times the row's own reduction is 1 / B."""
    for cfg in configs(load_grid("compare/family-nerf")).values():
        name = cfg.system.guidance.method
        rows = [name] if isinstance(name, str) else [*name.values()]
        batch = int(cfg.data.batch_size)
        for row in rows:
            divisor = METHODS.get(row).divisor((batch, 4, 16, 16))
            assert cfg.system.loss.lambda_asd / divisor == pytest.approx(1 / batch), row


@pytest.mark.slow
@pytest.mark.parametrize(("method", "plain", "grad"), [("SDS", 2, 0), ("ASD -0.75", 2, 1)])
def test_a_record_counts_what_the_network_is_asked(
    small, tmp_path, monkeypatch, method, plain, grad
):
    """The whole training's, whatever the process has asked it before; by a count of its own."""
    from diffusers import UNet2DConditionModel

    seen = {True: 0, False: 0}
    forward = UNet2DConditionModel.forward

    def counting(self, sample, *args, **kwargs):
        seen[torch.is_grad_enabled()] += len(sample)
        return forward(self, sample, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counting)
    grid = small(methods=[method], scales=[7.5])
    (cell,) = grid.cells
    outcome = train(grid.config(cell), tmp_path)
    items = grid.cfg.steps * 2
    assert seen == {False: items * plain, True: items * grad}
    assert outcome.unet_evaluations_in_all == items * (plain + grad)
    assert outcome.unet_evaluations_with_gradient == items * grad
    assert outcome.unet_evaluations == plain + grad
