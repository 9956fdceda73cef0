"""Grids: what a cell's config is, and when two cells are the same."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import threestudio_asd.guidance
import threestudio_asd.systems  # noqa: F401  (registers names and resolvers)
from threestudio_asd.compare.grid import load_grid
from threestudio_asd.errors import UserError

ROOT = Path(__file__).parents[2]
RESCALED = "VSD at s' of -0.75"
FAMILY = ("family", "family-nerf", "family-scales")


def one(grid, method, scale=7.5, **changes):
    cells = [c for c in grid.cells if (c.method, c.scale) == (method, scale)]
    return next(c for c in cells if all(getattr(c, k) == v for k, v in changes.items()))


def test_the_shipped_2d_grid_is_the_one_that_make_compare_promises():
    grid = load_grid("compare/2d")
    assert list(grid.rows) == ["SDS", "VSD", "ASD -0.75", RESCALED]
    assert list(grid.cfg.scales) == [1, 3, 7.5, 15, 30, 100]
    assert len(grid.cells) == 4 * 6 * 4 * 2 == len({c.name for c in grid.cells})
    cfg = grid.config(one(grid, "SDS"))
    assert cfg.system.n_particles == cfg.data.batch_size == 2
    assert cfg.system.guidance.method == "sds" and cfg.trainer.max_steps == grid.cfg.steps
    assert cfg.system.prompt_processor.use_perp_neg is False


def test_the_full_grid_has_every_gamma_and_object():
    grid = load_grid("compare/2d-full")
    gammas = {grid.config(one(grid, m)).system.guidance.gamma for m in grid.rows if "ASD" in m}
    assert gammas == {-0.25, -0.5, -0.75, -1.0}
    assert len({p.split()[-1] for p in grid.cfg.prompts}) == 12 and grid.cfg.steps >= 300


@pytest.mark.parametrize(
    "name", ["2d", "2d-full", "nerf", "recover", "critic-steps", "ablation", *FAMILY]
)
def test_every_shipped_grid_resolves(name):
    grid = load_grid(f"compare/{name}")
    hashes = {cell: grid.config_hash(cell) for cell in grid.cells}
    assert len(set(hashes.values())) == len(hashes) == len({c.name for c in hashes})


def test_the_ablation_changes_one_setting_at_a_time():
    grid = load_grid("compare/ablation", scales=[7.5], prompts=["a red mug"], seeds=[0])
    configs = {m: OmegaConf.to_container(grid.config(one(grid, m))) for m in grid.rows}
    del configs["VSD at s' of -0.75"]
    first = configs.pop("ASD -0.75")
    assert len(configs) == 10
    for other in configs.values():
        assert len(differences(first, other)) == 1


def test_grids_of_images_share_their_cells():
    """So that one folder serves them all."""
    whole = load_grid("compare/2d-full")
    for name in ("compare/2d", "compare/ablation"):
        part = load_grid(name)
        shared = set(part.cells) & set(whole.cells)
        assert len(shared) >= 4 * 16
        few = [cell for cell in shared if (cell.prompt, cell.seed) == ("a red mug", 1)]
        assert all(part.config_hash(cell) == whole.config_hash(cell) for cell in few)


def differences(a, b, path=()):
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for k in {*a, *b} for d in differences(a.get(k), b.get(k), (*path, k))]
    return [] if a == b else [path]


def test_critic_steps_of_the_shipped_grid():
    grid = load_grid("compare/critic-steps")
    steps = [grid.config(one(grid, m)).system.guidance.get("lora_n_steps", 1) for m in grid.rows]
    assert steps == [1, 1, 10, 50, 1, 10, 50]
    gammas = [grid.config(one(grid, m)).system.guidance.gamma for m in grid.rows if "ASD" in m]
    assert gammas == [-0.75] * 3


def test_a_rescaled_row_runs_at_s_prime_with_a_larger_weight():
    for name, lambda_asd in (("compare/2d", 1.0), ("compare/nerf", 1.0)):
        grid = load_grid(name, scales=[7.5])
        cfg = grid.config(one(grid, RESCALED))
        assert cfg.system.guidance.guidance_scale == pytest.approx(1 + 6.5 * 0.25)
        assert cfg.system.loss.lambda_asd == pytest.approx(4 * lambda_asd)
        assert cfg.system.guidance.method == "vsd"


def test_effective_scales():
    grid = load_grid("compare/2d")
    assert grid.effective_scale("VSD", 7.5) == grid.effective_scale("SDS", 7.5) == 7.5
    assert grid.effective_scale("ASD -0.75", 7.5) == pytest.approx(2.625)
    assert grid.effective_scale(RESCALED, 7.5) == pytest.approx(2.625)


def test_the_hash_sees_what_decides_the_figures():
    grid, longer = load_grid("compare/2d"), load_grid("compare/2d", steps=301)
    cell = one(grid, "VSD")
    assert grid.config_hash(cell) == load_grid("compare/2d").config_hash(cell)
    assert grid.config_hash(cell) != longer.config_hash(cell)
    assert grid.config_hash(cell) != grid.config_hash(one(grid, "VSD", seed=1))


def test_built_in_conventions_are_converted(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text(
        "prompts: [a red mug]\nmethods:\n  A: {scale_convention: threestudio-sds}\n"
        "  B:\n    overrides: {system.guidance.gamma: -0.5}\n"
    )
    grid = load_grid(str(file))
    assert grid.config(one(grid, "A")).system.guidance.guidance_scale == 6.5
    assert grid.config(one(grid, "B")).system.guidance.guidance_scale == 7.5


def test_a_row_may_have_a_base_of_its_own(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text(
        "base: tiny/asd-nerf\ngenerator: nerf\nprompts: [a red mug]\nmethods:\n  ASD: {}\n"
        "  SDS:\n    base: tiny/sds-nerf\n    scale_convention: threestudio-sds\n"
        "  SDS, perp-neg:\n    base: tiny/sds-nerf\n    scale_convention: threestudio-sds\n"
        "    overrides: {system.prompt_processor.use_perp_neg: true}\n"
    )
    grid = load_grid(str(file))
    configs = {name: grid.config(one(grid, name)) for name in grid.rows}
    types = [cfg.system.guidance_type for cfg in configs.values()]
    assert types == ["stable-diffusion-asd-guidance"] + ["stable-diffusion-guidance"] * 2
    assert [cfg.system.guidance.guidance_scale for cfg in configs.values()] == [7.5, 6.5, 7.5]
    assert grid.effective_scale("SDS", 7.5) == 7.5
    with pytest.raises(UserError, match="there is no config tiny/nothing"):
        file.write_text("prompts: [a red mug]\nmethods: {A: {base: tiny/nothing}}\n")
        load_grid(str(file))


@pytest.mark.parametrize(
    ("start", "message"),
    [("B", "starts from scratch; got B"), ("C", "got C"), ("nobody", "got nobody")],
)
def test_a_start_has_a_scale_of_its_own(tmp_path, start, message):
    (tmp_path / "grid.yaml").write_text(
        f"prompts: [a red mug]\nmethods:\n  A: {{start_from: {start}}}\n  B: {{}}\n"
        "  C: {scale: 100, start_from: D}\n  D: {scale: 100}\n"
    )
    with pytest.raises(UserError) as raised:
        load_grid(str(tmp_path / "grid.yaml"))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"methods": ["DDPO"]}, 'no method "DDPO"; choose of: SDS'),
        ({"prompts": ["a castle"]}, "needs a prompt with one object"),
        ({"scales": []}, "scales is empty"),
        ({"steps": 1}, "at least 2"),
        ({"generator": "gan"}, "use 2d or nerf"),
    ],
)
def test_mistakes_are_told(flags, message):
    with pytest.raises(UserError, match=None) as raised:
        load_grid("compare/2d", **flags)
    assert message in str(raised.value)


RUN = """
from threestudio_asd.compare.grid import load_grid
from threestudio_asd.compare.run.runner import run_grid
from pathlib import Path
grid = load_grid("compare/2d", steps=2, scales=[7.5], prompts=["a red mug"], seeds=[0],
                 methods=["SDS"])
(record,) = run_grid(grid, Path("out")).values()
print(len(record["p_pair"]), record["seconds_in_all"] > 0)
"""


@pytest.mark.slow
def test_a_grid_is_loaded_and_run_in_a_process_that_imports_nothing_else(tmp_path):
    done = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 True"
