"""An evaluation from folders to figures and a page."""

import contextlib
import json

import pytest
import torch
from PIL import Image

from threestudio_asd.errors import UserError
from threestudio_asd.generators.measure.evaluate import Request, evaluate
from threestudio_asd.generators.measure.report import figures, write_page
from threestudio_asd.generators.one_step import save_generator
from threestudio_asd.teachers.one_step import OneStepGenerator
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny.judge import load_report
from threestudio_asd.tiny.random_sd import write_random_sd


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def saved(teacher, folder, method="sid"):
    return save_generator(OneStepGenerator.of(FrozenUNet.load(teacher)), folder, teacher, method)


@pytest.fixture(scope="module")
def results(random_sd, tmp_path_factory):
    place = tmp_path_factory.mktemp("evaluation")
    folders = [saved(random_sd, place / name, name) for name in ("sid", "sida")]
    with contextlib.chdir(place):
        return evaluate(Request(folders, steps=(1, 2), scales=(1.0, 2.0), samples=6, truth=8))


def test_every_way_of_drawing_is_a_row(results):
    series = [(row.series, row.evaluations) for row in results.rows]
    assert series == [
        ("true renders", 0),
        ("autoencoder alone", 0),
        ("teacher, scale 1", 25),
        ("teacher, scale 2", 50),
        ("sid", 1),
        ("sid", 2),
        ("sida", 1),
        ("sida", 2),
    ]
    rows = dict(zip(series, results.rows, strict=True))
    # One network under two names.
    assert torch.equal(rows["sid", 2].images, rows["sida", 2].images)
    assert not torch.equal(rows["sid", 2].images, rows["sid", 1].images)
    assert all(row.images.shape == (6, 3, 64, 64) for row in results.rows)
    assert rows["sid", 1].title == "sid, 1 evaluation"
    captions = {tuple(row.captions) for row in results.rows if row.series != "true renders"}
    assert len(captions) == 1


def test_figures_are_written_for_machines_and_people(results, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    found = json.loads(results.save(out, ["the command"], "a machine").read_text())
    assert found["samples"] == 6 and found["judge"] == load_report()["sha256"]
    assert found["generators"]["sid"]["init_timestep"] == 625
    assert [row["series"] for row in found["rows"]][-1] == "sida"
    value, low, high = found["rows"][-1]["right"]
    assert 0 <= value <= 1 and low <= value <= high
    assert found["rows"][-1]["fid"] == [None, None, None]  # of six pictures
    page = write_page(results, out, ["the <command>"], "a machine").read_text()
    assert "the &lt;command&gt;" in page and "sida, 2 evaluations" in page
    assert page.count("<img") == 8 + 7 * len({o for o, _ in results.rows[-1].pairs})
    grids = sorted(path.name for path in out.glob("grid-*.png"))
    assert len(grids) == 8 and "grid-teacher-scale-2-50-evaluations.png" in grids
    grid = Image.open(out / "grid-sida-1-evaluation.png")
    assert grid.size == (8 * 64, 12 * 64)
    assert len(figures(results).rows) == 8


def test_what_cannot_be_measured_is_told(random_sd, tmp_path):
    one = saved(random_sd, tmp_path / "one")
    large = write_random_sd(tmp_path / "large", sample_size=16)
    other = saved(large, tmp_path / "other")
    cases = [
        ({"folders": [tmp_path]}, "holds no generator of one step"),
        ({"folders": [one, one]}, "A generator is named twice"),
        ({"folders": [one, other]}, "different teachers .* name one with --teacher"),
        ({"folders": [other]}, "draws 128 pixels"),
        ({"folders": [one], "samples": 1}, "1 samples against 4096 true renders"),
        ({"folders": [one], "samples": 9, "truth": 8}, "9 samples against 8 true renders"),
        ({"folders": []}, "at least one generator"),
        ({"folders": [one], "steps": [700], "samples": 2, "truth": 2, "scales": []}, "steps=700"),
    ]
    for given, message in cases:
        with pytest.raises(UserError, match=message) as error:
            evaluate(Request(**given))
        assert "\n" not in str(error.value)
