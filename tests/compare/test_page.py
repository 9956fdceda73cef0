"""The page: one file that holds everything, with what is there and without what is not."""

import re
from html.parser import HTMLParser

import pytest
import torch
import trimesh

from threestudio_asd.compare.measure import figures
from threestudio_asd.compare.records import cell_file, save_mesh, save_picture, save_turntable
from threestudio_asd.compare.report import summary
from threestudio_asd.compare.report.page import write_page
from threestudio_asd.compare.report.summary import Summary

VOID = {"meta", "img", "link", "br"}


class Balanced(HTMLParser):
    """Every tag is closed in its order; collects attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def parsed(path):
    parser = Balanced()
    parser.feed(path.read_text())
    assert parser.open == []
    return parser


@pytest.fixture
def written(small, tmp_path, monkeypatch):
    """The page of a grid of which one cell is missing."""
    torch.manual_seed(0)
    truth = figures.of_images(torch.rand(4, 3, 64, 64), "a red mug")
    monkeypatch.setattr(summary, "_truth", lambda *a: truth)

    def write(solid=False, **flags):
        grid = small(**flags)
        records = {}
        for cell in grid.cells[:-1]:
            found = figures.of_images(torch.rand(2, 3, 64, 64), cell.prompt)
            records[cell] = found | {
                "drift": [0.1, 0.2],
                "seconds": 1234.5,
                "unet_evaluations_in_all": 7200,
                "machine": "an abacus, 10 beads",
            }
            (tmp_path / "cells").mkdir(exist_ok=True)
            save_picture(cell_file(tmp_path, cell, "png"), torch.rand(2, 3, 64, 64))
            if solid:
                save_turntable(cell_file(tmp_path, cell, "webp"), torch.rand(5, 3, 96, 96))
                ball = trimesh.creation.icosphere(subdivisions=2, radius=0.8)
                save_mesh(cell_file(tmp_path, cell, "ply"), ball)
        made = Summary(grid, records, tmp_path)
        return write_page(grid, made, tmp_path, ["threestudio-asd compare --out <here>"])

    return write


def test_a_page_of_images(written):
    path = written(scales=[1.0, 7.5, 30.0])
    page = parsed(path)
    assert "5 runs of 2 steps: 2 methods, 3 guidance scales s" in page.text
    assert "1 of 6 cells are still to run" in page.text
    assert "threestudio-asd compare --out <here>" in page.text
    assert "; an abacus, 10 beads; judge" in page.text and "1234" in page.text
    pictures = [v for k, v in page.attributes if k == "src"]
    assert len(pictures) == 5 and all(v.startswith("data:image/png;base64,") for v in pictures)
    assert "Meshes" not in page.text and "canvas" not in path.read_text()
    svg = re.findall(r"<svg.*?</svg>", path.read_text())
    assert len(svg) == 2 * 9  # every measure of images, over s and over s'
    assert "distance between methods" in page.text and "SDS to ASD -0.75" in page.text


def test_a_page_of_scenes_has_turntables_and_meshes(written):
    path = written(solid=True)
    page = parsed(path)
    pictures = [v for k, v in page.attributes if k == "src"]
    assert len(pictures) == 3 and all(v.startswith("data:image/webp;base64,") for v in pictures)
    assert "a red mug: SDS, s = 7.5" in page.text
    assert ("id", "viewer") in page.attributes and ("id", "mesh-0") in page.attributes


def test_one_scale_needs_no_curves(written):
    text = written(scales=[7.5]).read_text()
    assert "<svg" not in text and "Figures" in text


def test_quality_over_cost_is_drawn_where_a_grid_asks_for_it(written):
    path = written(scales=[7.5], seeds=[0, 1], front=["kid", "p_pair"])
    page, text = parsed(path), path.read_text()
    svg = re.findall(r"<svg.*?</svg>", text)
    assert len(svg) == 2 * 2  # over evaluations and over seconds
    assert "Quality over cost" in page.text and "on the front" in page.text
    assert page.text.count("SDS: 7200, ") == 2 and ".stairs{" in text
    plain = written(scales=[7.5]).read_text()
    assert "Quality over cost" not in plain and ".stairs{" not in plain


def test_nothing_is_fetched_from_elsewhere(written):
    text = written(solid=True).read_text()
    assert not re.search(r"https?://|src=\"(?!data:)|@import|url\(", text)
