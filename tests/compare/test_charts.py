"""The charts are well-formed SVG and leave out what is not a number."""

import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from threestudio_asd.compare.report.charts import Curve, chart, nice_ticks


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-0.3, 0.2), (5.0, 5.0), (0.0, 0.0), (1e-7, 3e-7)]
)
def test_ticks_span_the_range_in_equal_steps(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-9 and ticks[-1] >= high - 1e-9
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in pairwise(ticks)}
    assert steps == {1.0} and 2 <= len(ticks) <= 8


def test_a_chart_is_well_formed_and_skips_nan():
    points = [(1.0, 0.2, 0.1, 0.3), (30.0, math.nan, 0.0, 1.0), (100.0, 0.9, 0.8, math.nan)]
    svg = ElementTree.fromstring(chart([Curve("A < B & C", 0, points)], "s", "KID"))
    assert len(list(svg.iter("circle"))) == 2
    assert "nan" not in ElementTree.tostring(svg.find("g")).decode().split("<title>")[0]
    assert svg.get("aria-label") == "KID over s"


def test_a_chart_of_one_point_and_of_none():
    ElementTree.fromstring(chart([Curve("A", 0, [(7.5, 0.5, 0.5, 0.5)])], "s", "p"))
    assert "no figures" in chart([Curve("A", 0, [])], "s", "p")
