"""Quality over cost: who is on the front, and what the page and the tables show of it."""

import math
import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from threestudio_asd.compare.grid import load_grid
from threestudio_asd.compare.report import summary as summaries
from threestudio_asd.compare.report.fronts import Priced, on_front, priced
from threestudio_asd.compare.report.markdown import write_tables
from threestudio_asd.compare.report.scatter import round_numbers, scatter
from threestudio_asd.compare.report.summary import Estimate, Summary

PROMPTS = ["a red mug", "a green chair", "a blue snowman"]


def front(costs, values):
    return on_front(np.array(costs, float), np.array(values, float)[:, None])[:, 0].tolist()


def test_the_front_by_hand():
    assert front([1, 2, 3], [0.1, 0.5, 0.9]) == [True, True, True]
    assert front([1, 2, 3], [0.9, 0.5, 0.1]) == [True, False, False]
    assert front([1, 2, 3, 4], [0.5, 0.4, 0.6, 0.6]) == [True, False, True, False]
    assert front([1, 1], [0.5, 0.6]) == [False, True]
    assert front([1, 1], [0.5, 0.5]) == [True, True]  # neither beats the other
    assert front([1, 2], [math.nan, 0.5]) == [False, True]


def test_the_front_is_what_is_best_up_to_its_cost():
    """A row is on it if it is better than all that are cheaper and the best of its own cost;
    whatever the order, and whatever monotone thing is done to costs and values."""
    rng = np.random.default_rng(4)
    costs, values = rng.integers(1, 9, 40).astype(float), rng.integers(0, 9, (40, 7)).astype(float)
    found = on_front(costs, values)
    for draw in range(7):
        for i in range(40):
            cheaper = values[costs < costs[i], draw]
            same = values[costs == costs[i], draw]
            best = values[i, draw] > max(cheaper, default=-1) and values[i, draw] == same.max()
            assert found[i, draw] == best
    order = rng.permutation(40)
    assert (on_front(costs[order], values[order]) == found[order]).all()
    assert (on_front(np.log(costs), values**3) == found).all()


@pytest.fixture
def made(monkeypatch):
    """A summary of three rows: SDS cheap, ASD dear and better, VSD dear and worse."""
    torch.manual_seed(0)
    truth = {"saturation": [0.4], "sharpness": [0.1], "features": torch.randn(40, 6).tolist()}
    monkeypatch.setattr(summaries, "_truth", lambda *a: truth)
    quality = {"SDS": (0.5, 0.30), "VSD": (0.4, 0.40), "ASD -0.75": (0.8, 0.55)}
    costs = {"SDS": (600, 9.0), "VSD": (900, 8.0), "ASD -0.75": (900, 12.0)}

    def make(counted=True, **flags):
        flags = {"prompts": PROMPTS, "seeds": [0], "scales": [7.5], "methods": [*quality]} | flags
        grid = load_grid("compare/2d", **flags)
        records = {}
        for cell in grid.cells:
            p, saturation = quality[cell.method]
            evaluations, seconds = costs[cell.method]
            p += 0.01 * PROMPTS.index(cell.prompt)
            records[cell] = {"p_pair": [p] * 2, "saturation": [saturation] * 2, "seconds": seconds}
            records[cell]["features"] = torch.randn(2, 6).tolist()
            if counted:
                records[cell]["unet_evaluations_in_all"] = evaluations
        return Summary(grid, records, Path())

    return make


def names(points):
    return {point.title for point in points if point.best}


def test_rows_on_the_front_of_made_up_records(made):
    summary = made()
    grid = summary.grid
    assert names(priced(grid, summary, "p_pair", "unet_evaluations_in_all")) == {"SDS", "ASD -0.75"}
    # VSD is the fastest of them, however poor.
    assert names(priced(grid, summary, "p_pair", "seconds")) == {"SDS", "VSD", "ASD -0.75"}
    # The distance from the truth's 0.4 counts: VSD's is 0.
    found = priced(grid, summary, "saturation", "unet_evaluations_in_all")
    assert names(found) == {"SDS", "VSD"}
    assert {p.title: round(p.quality.value, 3) for p in found} == {
        **{"SDS": 0.1, "VSD": 0.0, "ASD -0.75": 0.15}
    }
    # Prompts shift all rows alike, so that no draw changes the front.
    shares = {p.title: p.share for p in priced(grid, summary, "p_pair", "unet_evaluations_in_all")}
    assert shares == {"SDS": 1.0, "VSD": 0.0, "ASD -0.75": 1.0}


def test_records_without_a_count_have_no_place_over_it(made):
    summary = made(counted=False)
    assert priced(summary.grid, summary, "p_pair", "unet_evaluations_in_all") == []
    assert len(priced(summary.grid, summary, "p_pair", "seconds")) == 3


def test_the_tables_tell_the_front_where_a_grid_asks_for_it(made, tmp_path):
    summary = made(front=["p_pair", "janus"])  # no picture has the second
    text = write_tables(summary.grid, summary, tmp_path).read_text()
    section = text.split("## Quality over cost\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert rows[0].count("on the front") == 1 and "probability of the pair" in rows[0]
    (sds,) = (row for row in rows if row.startswith("| SDS |"))
    assert sds.startswith("| SDS | 600 | 9 | 0.510 [") and sds.endswith("| 100%, 100% |")
    (vsd,) = (row for row in rows if row.startswith("| VSD |"))
    assert vsd.endswith("| 0%, 100% |")
    plain = made()
    assert "Quality over cost" not in write_tables(plain.grid, plain, tmp_path).read_text()


def points(count=9):
    rng = np.random.default_rng(1)
    costs, values = (rng.uniform(*ends, count).tolist() for ends in ((600, 9000), (0, 1)))
    best = front(costs, [-value for value in values])
    return [
        Priced(f"row <{i}>", costs[i], Estimate(values[i], values[i] - 0.1, math.nan), best[i], 1.0)
        for i in range(count)
    ]


def drawn(*arguments, **options):
    return ElementTree.fromstring(scatter(*arguments, **options))


def test_the_drawing_shows_the_front_in_the_upper_left():
    rows = points()
    svg = drawn(rows, "cost", "KID", down=True)
    places = {}
    for group in svg.iter("g"):
        (circle,) = group.iter("circle")
        title = circle.find("title").text.split(":")[0]
        places[title] = (float(circle.get("cx")), float(circle.get("cy")), group.get("class"))
    assert len(places) == len(rows) and svg.get("aria-label") == "KID over cost"
    assert {t for t, (*_, kind) in places.items() if kind == "best"} == names(rows)
    for (one, a), (_, b) in combinations(((p, places[p.title]) for p in rows), 2):
        other = next(p for p in rows if places[p.title] == b)
        assert (a[0] < b[0]) == (one.cost < other.cost)
        assert (a[1] < b[1]) == (one.quality.value < other.quality.value)  # less is higher up
    (stairs,) = svg.iter("path")
    steps = [float(y) for y in re.findall(r"V([\d.]+)", stairs.get("d"))]
    assert steps == sorted(steps, reverse=True) and len(steps) == len(names(rows)) - 1


def test_names_cover_neither_each_other_nor_leave_the_picture():
    rows = points(30)
    svg = drawn(rows, "cost", "KID", down=True)
    written = [t for t in svg.iter("text") if t.get("class") in ("best", "beaten")]
    assert 10 <= len(written) <= 30
    boxes = [(float(t.get("x")), float(t.get("y")), 6.2 * len(t.text)) for t in written]
    assert all(x >= 0 and x + width <= 660 for x, _, width in boxes)
    for (x, y, width), (other_x, other_y, other) in combinations(boxes, 2):
        assert abs(y - other_y) >= 12.9 or x + width <= other_x or other_x + other <= x


def test_a_drawing_of_one_row_and_of_none():
    assert len(list(drawn(points(1), "cost", "p", down=False).iter("circle"))) == 1
    assert "no figures" in scatter([], "cost", "p", down=False)


def test_round_numbers():
    assert round_numbers(600.0, 9200.0) == [1000, 2000, 5000]
    assert round_numbers(0.7, 25.0) == [1, 2, 5, 10, 20]
    assert round_numbers(600.0, 610.0) == [600, 610]
    assert round_numbers(600.0, 600.0) == [600]
