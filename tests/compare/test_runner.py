"""A grid goes on from the cells that are there, whatever ended it."""

import json
import signal

import pytest
import trimesh
from fakes import alive, children, wait_for
from processes import Python

from threestudio_asd.compare import records
from threestudio_asd.compare.grid import load_grid
from threestudio_asd.compare.records import cell_file, finished, read_record
from threestudio_asd.compare.run import runner
from threestudio_asd.compare.run.runner import run_grid
from threestudio_asd.studio.checkpoint.store import load_checkpoint


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(records.log, "warn", lambda text, *values: said.append(text % values))
    return said


def test_each_cell_leaves_its_record_and_picture(small, trained, tmp_path):
    grid = small()
    found = run_grid(grid, tmp_path)
    assert set(found) == set(grid.cells) and len(trained) == 4
    names = {path.name for path in (tmp_path / "cells").iterdir()}
    assert names == {f"{c.name}.{kind}" for c in grid.cells for kind in ("json", "png")}
    record = read_record(cell_file(tmp_path, grid.cells[0], "json"))
    assert record == found[grid.cells[0]]
    assert record["method"] == "SDS" and len(record["features"]) == 2


def test_a_stopped_grid_goes_on(small, trained, tmp_path, monkeypatch):
    grid, write, written = small(), runner.write_record, []

    def stop_at_the_third(path, record):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, record)

    monkeypatch.setattr(runner, "write_record", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, tmp_path)
    monkeypatch.setattr(runner, "write_record", write)
    assert len(finished(grid, tmp_path)) == 2
    trained.clear()
    assert len(run_grid(grid, tmp_path)) == 4 and len(trained) == 2
    run_grid(grid, tmp_path)
    assert len(trained) == 2


def test_shards_share_the_cells(small, trained, tmp_path):
    grid = small()
    assert len(run_grid(grid, tmp_path, shard=(0, 2))) == 2
    assert len(run_grid(grid, tmp_path, shard=(1, 2))) == 4 == len(trained)


def test_a_record_of_another_config_does_not_count(small, trained, warnings, tmp_path):
    run_grid(small(), tmp_path)
    assert warnings == []
    assert finished(small(steps=3), tmp_path) == {}
    assert "4 cells" in warnings[0] and "another config" in warnings[0]
    assert "sds_s1_a_red_mug_seed0" in warnings[0]
    run_grid(small(steps=3), tmp_path)
    assert len(trained) == 8


@pytest.mark.parametrize("content", ['{"method": "SD', "[1, 2]", "\x00"])
def test_an_unreadable_record_is_said_and_done_again(small, trained, warnings, tmp_path, content):
    grid = small()
    run_grid(grid, tmp_path)
    path = cell_file(tmp_path, grid.cells[1], "json")
    path.write_text(content)
    assert len(finished(grid, tmp_path)) == 3
    assert str(path) in warnings[0] and "does not count" in warnings[0]
    run_grid(grid, tmp_path)
    assert len(trained) == 5 and read_record(path)["scale"] == 7.5


STARTING = """
base: tiny/asd-2d
prompts: [a red mug]
seeds: [0]
scales: [3, 30]
steps: 2
overrides: {system.n_particles: 2, data.batch_size: 2}
methods:
  VSD:
    overrides: {system.guidance.method: vsd, system.optimizer.params.particles.lr: 0.0}
    start_from: "SDS at 100"
  "SDS at 100":
    overrides: {system.guidance.method: sds}
    scale: 100
"""


@pytest.fixture
def starting(tmp_path):
    (tmp_path / "grid.yaml").write_text(STARTING)
    return lambda **flags: load_grid(str(tmp_path / "grid.yaml"), **flags)


def test_what_others_start_from_comes_first(starting, trained, tmp_path):
    grid = starting(methods=["VSD"])  # brings its start along
    (start,) = (cell for cell in grid.cells if cell.method == "SDS at 100")
    assert len(grid.cells) == 3 and start.scale == 100.0
    run_grid(grid, tmp_path)
    path = cell_file(tmp_path, start, "ckpt")
    assert [cfg.system.get("weights") for cfg in trained] == [None, str(path), str(path)]
    assert [cfg.system.guidance.guidance_scale for cfg in trained] == [100.0, 3.0, 30.0]
    path.unlink()  # results without their weights, as they are published
    trained.clear()
    run_grid(grid, tmp_path)
    assert trained == []
    cell_file(tmp_path, grid.cells[0], "json").unlink()
    run_grid(grid, tmp_path)
    assert [cfg.system.get("weights") for cfg in trained] == [None, str(path)]


def test_the_hash_knows_where_a_cell_starts(starting, tmp_path):
    grid = starting()
    hashes = [grid.config_hash(cell) for cell in grid.cells]
    changed = STARTING.replace("method: sds", "method: vsd")
    (tmp_path / "grid.yaml").write_text(changed)
    assert not set(hashes) & {starting().config_hash(cell) for cell in grid.cells}


@pytest.mark.slow
def test_a_real_cell_starts_where_another_ended(starting, few_truths, tmp_path):
    """Its particles do not move: their learning rate is 0."""
    grid = starting(scales=[3.0])
    found = run_grid(grid, tmp_path)
    begun, ended = (found[cell] for cell in sorted(grid.cells, key=lambda c: c.method))
    assert begun["method"] == "SDS at 100" and ended["critic_error"] > 0
    for name in ("p_pair", "saturation", "sharpness"):
        assert ended[name] == pytest.approx(begun[name], abs=1e-4)
    assert ended["drift"] == [0.0, 0.0] and begun["drift"][0] > 0
    (path,) = (tmp_path / "cells").glob("*.ckpt")
    assert list(load_checkpoint(path)["state_dict"]) == ["particles.value"]


@pytest.mark.slow
def test_a_cell_is_the_same_whatever_ran_before_it(small, tmp_path):
    one = small(scales=[7.5], methods=["ASD -0.75"])
    alone = run_grid(one, tmp_path / "alone")
    after = run_grid(small(scales=[7.5]), tmp_path / "after")
    (cell,) = one.cells
    timed = ("seconds", "seconds_in_all", "peak_memory_mb")
    for record in (alone[cell], after[cell]):
        assert record["unet_evaluations"] == 3.0 and not record["diverged"]
    assert all(alone[cell][k] == after[cell][k] for k in alone[cell] if k not in timed)


@pytest.mark.slow
def test_killed_processes_leave_whole_records_and_no_orphans(small, trained, tmp_path):
    command = ["-m", "threestudio_asd.cli.main", "compare", "--jobs", "2"]
    command += ["--steps", "2", "--scales", "1", "7.5", "--prompts", "a red mug", "--seeds", "0"]
    command += ["--methods", "SDS", "ASD -0.75", "--out", str(tmp_path)]
    # With no place for caches, which is told once and not by each of the processes.
    (tmp_path / "tmp").mkdir()
    homeless = {"WARP_CACHE_PATH": "/proc/1", "TMPDIR": str(tmp_path / "tmp")}
    with Python(*command, cwd="/proc", environment=homeless) as process:
        wait_for(lambda: list(tmp_path.glob("cells/*.json")))
        started = children(process.pid)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
    assert len(started) >= 2
    wait_for(lambda: not any(map(alive, started)))
    told = [line for line in said.splitlines() if " are kept in " in line]
    assert len(told) == 2 and "WARP_CACHE_PATH" in told[0] and "embeddings" in told[1]
    there = [json.loads(path.read_text()) for path in tmp_path.glob("cells/*.json")]
    assert len(there) >= 1 and all("seconds_in_all" in record for record in there)
    assert len(run_grid(small(), tmp_path)) == 4 and len(trained) == 4 - len(there)


def test_a_mesh_to_look_at_is_laid_out_as_the_viewer_reads_it(tmp_path):
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.8)
    ball.visual.vertex_colors = [[200, 30, 60, 255]] * len(ball.vertices)
    records.save_mesh(tmp_path / "ball.ply", ball)
    header, _, body = (tmp_path / "ball.ply").read_bytes().partition(b"end_header\n")
    found = trimesh.load(tmp_path / "ball.ply", process=False)
    assert len(body) == 16 * len(found.vertices) + 13 * len(found.faces)
    assert b"element vertex" in header and b"element face" in header
    assert 100 < len(found.vertices) < len(ball.vertices) and found.is_watertight
    assert (found.visual.vertex_colors == [200, 30, 60, 255]).all()
    assert found.volume == pytest.approx(ball.volume, rel=0.03)
