"""benchmarks/one_step_table.py: it fills over days, from trainings that are not repeated."""

import importlib
import json
import math
from pathlib import Path

import pytest
from PIL import Image

from threestudio_asd.errors import UserError
from threestudio_asd.generators.config import load

SMALL = ("--iterations", "1", "--samples", "3", "--truth", "4", "--no-references")


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("one_step_table")


@pytest.fixture
def table(benchmark):
    return importlib.import_module("one_step_parts.table")


@pytest.fixture
def fill(benchmark, random_sd):
    """One command in the folder of the test."""
    values = (f"teacher={random_sd}", "settings.batch=2", "reals.count=4")

    def run(*arguments):
        places = ("--out", "out", "--results", "results")
        benchmark.main([*SMALL, *places, *arguments, "--set", *values])

    return run


def rows(path="results/table.md"):
    """The table's rows by their first cell."""
    lines = [line for line in Path(path).read_text().splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {row[0]: row for row in split}


@pytest.mark.slow
def test_cells_are_trained_once_and_averaged_over_their_seeds(fill, benchmark, monkeypatch):
    fill("--only", "sid", "gan", "--seeds", "0")
    record = json.loads(Path("results/gan-1-0.json").read_text())
    assert (record["cell"], record["seed"], record["iterations"]) == ("gan", 0, 1)
    assert record["settings"]["batch"] == 2 and record["reals"]["count"] == 4
    assert record["minutes"]["wall"] > 0 and record["measured"]["samples"] == 3
    assert set(record["figures"]) == {"fid", "kid", "right", "diversity", "sharpness"}
    assert "diffusers" in record["machine"]
    assert list(rows()) == ["sid", "gan"] and rows()["sid"][3] == "0"
    assert "[" not in rows()["sid"][6]  # of one seed
    assert Image.open("results/pictures.png").height == 2 * 64
    trained = []
    run = benchmark.run
    monkeypatch.setattr(benchmark, "run", lambda cfg: (trained.append(cfg.out), run(cfg))[1])
    fill("--only", "sid", "gan", "--seeds", "0")
    assert trained == []
    Path("results/gan-1-0.json").unlink()
    fill("--only", "sid", "gan", "--seeds", "0", "1")
    # What was trained is measured anew, and no minute of it is lost.
    assert trained == ["out/sid-1-1", "out/gan-1-1"]
    again = json.loads(Path("results/gan-1-0.json").read_text())
    assert again["minutes"] == record["minutes"] and again["figures"] == record["figures"]
    assert rows()["sid"][3] == "0, 1" and "[" in rows()["sid"][6]


def test_minutes_of_a_training_that_was_stopped_count(fill, benchmark, monkeypatch):
    run = benchmark.run

    def stopped(cfg):
        Path(cfg.out).mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        fill("--only", "distillation", "--seeds", "0")
    file = Path("out/distillation-1-0/spent.json")
    assert json.loads(file.read_text())["wall"] >= 0 and not Path("results").exists()
    file.write_text('{"wall": 60.0, "cpu": 50.0}')
    monkeypatch.setattr(benchmark, "run", run)
    fill("--only", "distillation", "--seeds", "0")
    found = json.loads(Path("results/distillation-1-0.json").read_text())["minutes"]
    assert 60 < found["wall"] < 61 and 50 < found["cpu"] < 51


def test_the_truth_and_the_teacher_are_rows_once(fill, benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "SCALES", (1.0,))
    yardstick = benchmark.Yardstick(2, 3, 3)
    benchmark.measure_references(yardstick, Path("out"), Path("results"))
    fill("--report")
    titles = ["true renders", "autoencoder alone", "teacher, scale 1"]
    assert list(rows()) == titles and rows()["teacher, scale 1"][1] == "25"
    assert Image.open("results/pictures.png").height == 2 * 64  # true renders are of other captions
    before = Path("results/teacher-1.json").stat().st_mtime_ns
    benchmark.measure_references(yardstick, Path("out"), Path("results"))
    assert Path("results/teacher-1.json").stat().st_mtime_ns == before


def test_seeds_have_students_interval(table):
    found = table.over_seeds([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)  # t of 2 degrees of freedom, deviation 1
    assert found.value == 2 and found.high == pytest.approx(2 + half, rel=1e-6)
    assert found.low == pytest.approx(2 - half, rel=1e-6)
    assert math.isnan(table.over_seeds([1.0]).low)
    assert table.over_seeds([1.0, None]) is None and table.over_seeds([]) is None


def test_what_was_measured_otherwise_is_another_row_and_is_told(table, tmp_path):
    def write(name, seed, fid, samples=1024, iterations=400):
        figures = {key: [fid, None, None] for key in table.MEASURES}
        measured = {"samples": samples, "truth": 4096, "teacher": "t"}
        record = {"cell": "sida", "seed": seed, "iterations": iterations, "title": "sida"}
        record |= {"settings": {}, "reals": {}, "evaluations": 1, "minutes": {"cpu": 1.0}}
        record |= {"figures": figures, "measured": measured}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))

    write("a", 0, 1.0)
    write("b", 1, 3.0)
    write("c", 0, 9.0, iterations=800)
    text = table.markdown(tmp_path).read_text()
    assert text.count("| sida |") == 2 and "| 2.000 [" in text and "| 9.000 |" in text
    assert "cannot be compared" not in text
    write("d", 2, 5.0, samples=64)
    text = table.markdown(tmp_path).read_text()
    assert text.count("| sida |") == 3 and "cannot be compared" in text


def test_every_cell_is_a_training_that_can_be_read(benchmark):
    cells = importlib.import_module("one_step_parts.cells")
    found = {cell.name: load("tiny/sida", cell.overrides) for cell in cells.chosen(None, [2], 7)}
    assert set(found) == set(cells.CELLS)
    assert all((cfg.seed, cfg.steps) == (2, 7) for cfg in found.values())
    assert found["sida-8192-renders"].reals.count == 8192
    own, sida = found["sida-own-samples"], found["sida"]
    assert own.reals.count == sida.reals.count and own.reals.type == "teacher"
    assert (own.method, own.settings) == (sida.method, sida.settings)
    with pytest.raises(UserError, match="There is no cell 'sidb'; choose of: sida"):
        cells.chosen(["sidb"], [0], 400)
