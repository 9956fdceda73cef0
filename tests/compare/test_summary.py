"""Means, intervals and robustness from records that are made up."""

from pathlib import Path

import numpy as np
import pytest
import torch

from threestudio_asd.compare.grid import load_grid
from threestudio_asd.compare.measure import metrics
from threestudio_asd.compare.measure.measures import MEASURES
from threestudio_asd.compare.report import summary as summaries
from threestudio_asd.compare.report.markdown import laid_out, write_tables
from threestudio_asd.compare.report.summary import Summary
from threestudio_asd.compare.report.tables import Table, by_prompt

PROMPTS = ["a red mug", "a green chair", "a blue snowman", "a yellow torus", "a red house"]
SCALES = [1.0, 7.5, 100.0]


@pytest.fixture(autouse=True)
def truth(monkeypatch):
    """Of every prompt the same."""
    torch.manual_seed(0)
    found = {"saturation": [0.4], "sharpness": [0.1], "features": torch.randn(40, 6).tolist()}
    monkeypatch.setattr(summaries, "_truth", lambda *a: found)


def make(value, prompts=PROMPTS, seeds=(0, 1), scales=SCALES, keep=lambda cell: True):
    """A summary of two methods whose ``p_pair`` is ``value(cell)`` in both of two images."""
    grid = load_grid(
        "compare/2d", prompts=prompts, seeds=list(seeds), scales=scales, methods=["SDS", "VSD"]
    )
    rng = torch.Generator().manual_seed(1)
    records = {}
    for cell in filter(keep, grid.cells):
        features = torch.randn(2, 6, generator=rng)
        features += 3.0 if cell.method == "SDS" else 0.0
        records[cell] = {
            "p_pair": [value(cell)] * 2,
            "saturation": [0.4 + value(cell)] * 2,
            "features": features.tolist(),
            "seconds": 2.0,
        }
    return Summary(grid, records, Path())


def test_the_value_is_the_mean_and_the_interval_holds_it():
    rng = np.random.default_rng(3)
    found = make(lambda cell: float(rng.normal(0.5, 0.1)))
    cells = [c for c in found.records if (c.method, c.scale) == ("SDS", 7.5)]
    mean = np.mean([found.records[c]["p_pair"] for c in cells])
    estimate = found.estimate("p_pair", "SDS", 7.5)
    assert estimate.value == pytest.approx(mean)
    assert estimate.low < estimate.value < estimate.high


def test_intervals_cover_a_known_mean_about_as_often_as_they_say():
    """Prompts with offsets of their own: an interval over images alone would be too short."""
    rng, covered = np.random.default_rng(5), []
    prompts = [f"a {c} {o}" for c in ("red", "blue", "green") for o in ("mug", "cone", "tree")]
    for _ in range(40):
        offsets = {prompt: rng.normal(0, 0.1) for prompt in prompts}

        def value(cell, offsets=offsets):
            return float(0.5 + offsets[cell.prompt] + rng.normal(0, 0.03))

        estimate = make(value, prompts=prompts, scales=[7.5]).estimate("p_pair", "SDS", 7.5)
        covered.append(estimate.low <= 0.5 <= estimate.high)
    assert np.mean(covered) >= 0.8


def test_no_interval_from_one_prompt_and_seed():
    estimate = make(lambda cell: 0.5, PROMPTS[:1], (0,)).estimate("p_pair", "SDS", 7.5)
    assert estimate.value == 0.5 and np.isnan([estimate.low, estimate.high]).all()


def test_robustness_is_the_worst_and_the_mean_over_the_scales():
    by_scale = {1.0: 0.2, 7.5: 0.9, 100.0: 0.4}
    found = make(lambda cell: by_scale[cell.scale])
    worst, mean = found.robustness("p_pair", "SDS")
    assert (worst.value, worst.low, worst.high) == pytest.approx((0.2,) * 3)
    assert mean.value == pytest.approx(0.5)


def test_what_should_be_the_truths_counts_by_its_distance():
    by_scale = {1.0: -0.3, 7.5: 0.0, 100.0: 0.2}
    found = make(lambda cell: by_scale[cell.scale])
    assert found.estimate("saturation", "SDS", 1.0).value == pytest.approx(-0.3)
    worst, mean = found.robustness("saturation", "SDS")
    assert worst.value == pytest.approx(0.3) and mean.value == pytest.approx(0.5 / 3)


def test_an_advantage_is_sharper_than_its_parts():
    """Prompts differ much, the two methods little on each."""
    rng = np.random.default_rng(2)
    hard = {prompt: rng.normal(0, 0.2) for prompt in PROMPTS}
    better = {"SDS": 0.0, "VSD": 0.05}
    found = make(lambda c: float(0.5 + hard[c.prompt] + better[c.method] + rng.normal(0, 0.01)))
    _worst, mean = found.advantage("p_pair", "VSD", "SDS")
    assert 0 < mean.low < mean.value < mean.high
    alone = found.robustness("p_pair", "VSD")[1]
    assert mean.high - mean.low < 0.2 * (alone.high - alone.low)
    assert mean.value == pytest.approx(
        alone.value - found.robustness("p_pair", "SDS")[1].value, abs=1e-9
    )
    back = found.advantage("p_pair", "SDS", "VSD")[1]
    assert back.value == pytest.approx(-mean.value)
    assert found.advantage("kid", "VSD", "SDS")[1].low > 0  # less is better


def test_kid_tells_the_method_that_is_near_the_truth():
    found = make(lambda cell: 0.5)
    near, far = (found.estimate("kid", method, 7.5) for method in ("VSD", "SDS"))
    assert near.high < far.low
    worst, mean = found.robustness("kid", "SDS")
    assert worst.value >= mean.value > near.value


def test_the_distance_between_methods_is_taken_result_by_result():
    """Features differ by 3 in each of 6 numbers, beside noise of deviation sqrt 2."""
    found = make(lambda cell: 0.5, keep=lambda c: (c.method, c.seed, c.scale) != ("VSD", 1, 7.5))
    far = found.distance("SDS", "VSD", 100.0)
    assert far.low < far.value < far.high
    assert far.value == pytest.approx(np.sqrt(6 * (3**2 + 2)), rel=0.15)
    ours, theirs = (
        torch.tensor(found.records[found.grid.cell(m, 7.5, PROMPTS[0], 0)]["features"])
        for m in ("SDS", "VSD")
    )
    by_hand = [torch.dist(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert metrics.paired_distance(ours, theirs) == pytest.approx(float(sum(by_hand)) / 2)
    assert found.distance("SDS", "SDS", 7.5).value == 0.0
    assert found.distance("VSD", "SDS", 7.5).value == found.distance("SDS", "VSD", 7.5).value
    assert found.distance("SDS", "VSD", 55.0) is None


def test_a_scene_is_one_result_whichever_view_comes_first():
    """Two seeds of one prompt, eight views each: turned, they are as far apart as before."""
    views = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(2))

    def summary_of(first, second, seeds=(0, 1)):
        flags = {"prompts": PROMPTS[:1], "scales": [3.0], "seeds": list(seeds)}
        grid = load_grid("compare/nerf", methods=["SDS", "VSD"], **flags)
        shown = {("SDS", 0): first, ("SDS", 1): second, ("VSD", 0): second, ("VSD", 1): first}
        records = {c: {"features": shown[c.method, c.seed].tolist()} for c in grid.cells}
        return Summary(grid, records, Path())

    found, turned = summary_of(*views), summary_of(views[0], views[1].roll(3, 0))
    apart = float(torch.dist(views[0].mean(0), views[1].mean(0)))
    for summary in (found, turned):
        assert summary.estimate("diversity", "SDS", 3.0).value == pytest.approx(apart)
        assert summary.distance("SDS", "VSD", 3.0).value == pytest.approx(apart)
    alone = summary_of(*views, seeds=(0,))
    assert alone.estimate("diversity", "SDS", 3.0) is None
    assert alone.estimate("kid", "SDS", 3.0) is not None  # of images, not of results


def test_missing_cells_leave_the_rest_as_it_is():
    by_prompt = dict(zip(PROMPTS, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True))
    found = make(
        lambda cell: by_prompt[cell.prompt],
        keep=lambda c: c.prompt != PROMPTS[4] and (c.method, c.scale) != ("VSD", 100.0),
    )
    assert found.estimate("p_pair", "SDS", 7.5).value == pytest.approx(0.25)
    assert found.estimate("p_pair", "VSD", 100.0) is None
    assert found.robustness("p_pair", "VSD") is None
    assert found.robustness("p_pair", "SDS") is not None
    assert found.estimate("silhouette_iou", "SDS", 7.5) is None
    assert "silhouette_iou" not in found.values


def test_costs_are_means_of_what_is_known():
    costs = make(lambda cell: 0.5).costs("SDS")
    assert costs["seconds"] == 2.0 and costs["peak_memory_mb"] is None


def test_fid_needs_enough_results():
    found = make(lambda cell: 0.5)
    assert found.fid("SDS", 7.5) > found.fid("VSD", 7.5) > 0  # 20 results, 6 features
    assert make(lambda cell: 0.5, PROMPTS[:2]).fid("SDS", 7.5) is None
    assert found.fid("SDS", 55.0) is None


def test_a_row_with_a_scale_of_its_own_is_level(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text(
        "prompts: [a red mug]\nscales: [3, 30]\nmethods:\n  start: {scale: 100}\n  SDS: {}\n"
    )
    grid = load_grid(str(file))
    records = {
        cell: {"p_pair": [0.8 if cell.method == "start" else 0.1], "features": [[0.0] * 6]}
        for cell in grid.cells
    }
    found = Summary(grid, records, Path())
    assert [found.estimate("p_pair", "start", s).value for s in (3.0, 30.0)] == [0.8, 0.8]


def test_a_prompt_has_the_mean_of_its_runs():
    found = make(lambda cell: cell.scale + cell.seed, keep=lambda c: c.prompt != PROMPTS[1])
    assert found.of_prompt("p_pair", "SDS", PROMPTS[0]) == pytest.approx(np.mean(SCALES) + 0.5)
    # Less the truth's 0.4, which was put on it.
    assert found.of_prompt("saturation", "VSD", PROMPTS[2]) == pytest.approx(np.mean(SCALES) + 0.5)
    assert found.of_prompt("p_pair", "SDS", PROMPTS[1]) is None
    table = by_prompt(found.grid, found)
    assert [row[0] for row in table.rows] == PROMPTS
    assert table.rows[1][1:] == ["-", "-"]
    assert table.rows[0][1] == f"{np.mean(SCALES) + 0.5:.3f}"


def test_the_tables_say_what_the_summary_says(tmp_path):
    found = make(lambda cell: 0.25, keep=lambda c: (c.method, c.scale) != ("VSD", 100.0))
    text = write_tables(found.grid, found, tmp_path).read_text()
    assert "\nTeacher: tiny-shapes-" in text and " steps.\n" in text
    title = MEASURES["p_pair"].title
    _, section = text.split(f"## {title}\n")
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert rows[0] == "| method | s = 1 | s = 7.5 | s = 100 |"
    value = "0.250 [0.250, 0.250]"
    assert f"| SDS | {value} | {value} | {value} |" in rows
    assert f"| VSD | {value} | {value} | - |" in rows
    assert "| VSD over SDS | worst of the scales | - |" in text
    (apart,) = (line for line in text.splitlines() if line.startswith("| SDS to VSD |"))
    assert apart.endswith("| - |") and apart.count("[") == 2
    assert laid_out(Table(["a"], [["x | y"]])).splitlines()[-1] == "| x \\| y |"


def test_of_one_scale_worst_and_mean_are_one(tmp_path):
    found = make(lambda cell: 0.25, scales=[7.5])
    text = write_tables(found.grid, found, tmp_path).read_text()
    assert "of the scales" not in text and "Robustness" not in text
    value = "0.250 [0.250, 0.250]"
    assert "| s = 7.5 | probability of the pair |" in text
    assert f"| SDS | {value} |" in text.split("## Differences")[0]
    assert "| VSD over SDS | s = 7.5 | 0.000 [0.000, 0.000] |" in text
