"""The stages of training one after the other, tiny: what each leaves, and what ``publish`` says."""

import json

import pytest
import torch

from threestudio_asd.errors import UserError
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny import edition
from threestudio_asd.tiny.train import (
    diffusion,
    measure,
    measure_views,
    multiview,
    publish,
    publish_views,
    vae,
)


@pytest.mark.slow
def test_from_renders_to_a_published_edition(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "SCALES", (4.0,))
    work, out = tmp_path / "work", tmp_path / "weights"
    source = work / "tiny-shapes"
    few = {"steps": 2, "renders": 96, "batch": 4}
    vae.main(work, source, **few)
    diffusion.main(work, source, **few)
    with pytest.raises(UserError, match=r"no .*measures.json; run the stage 'measure' first"):
        publish.main(work, out)
    monkeypatch.setattr(measure, "DDIM_STEPS", 2)
    measure.main(work, source, steps=8)
    older = out / "tiny-shapes-0"
    older.mkdir(parents=True)
    (older / "report.json").write_text('{"edition": 1}')
    publish.main(work, out)

    (folder,) = set(out.iterdir()) - {older}
    assert edition(folder) == 2
    report = json.loads((folder / "report.json").read_text())
    assert report["training"]["vae"] | {"seconds": 0} == {
        **few,
        "lr": 2e-3,
        "seed": 5,
        "seconds": 0,
        "hardware": "CPU",
    }
    assert report["judge_accuracy"] == report["measures"]["training_pairs"]["scales"]["4"]["judge"]
    card = (folder / "README.md").read_text()
    assert "vae 2 steps of 4 of 96 renders (learning rate 0.002, seed 5, 0 min on CPU)" in card
    assert "| held out pairs | 4 | too few samples |" in card
    assert (folder / "samples.png").is_file()
    assert "_name_or_path" not in (folder / "vae/config.json").read_text()
    trained = torch.load(work / "diffusion.ckpt", weights_only=True)
    assert trained["step"] == report["training"]["diffusion"]["steps"]


def test_a_card_names_what_was_trained_on():
    facts = {"steps": 2500, "batch": 8, "renders": 64, "lr": 5e-4, "seed": 1, "seconds": 120}
    facts |= {"hardware": "CPU"}
    alone = publish.training_line("multiview", facts)
    assert alone.startswith("multiview 2,500 steps of 8 of 64 renders") and "from" not in alone
    onwards = publish.training_line("multiview", {**facts, "start_from": "tiny-shapes-mv-0"})
    assert "of 8 of 64 renders, from tiny-shapes-mv-0 on (learning" in onwards


@pytest.mark.slow
def test_from_scenes_to_a_teacher_of_several_views(tmp_path, monkeypatch):
    monkeypatch.setattr(measure_views, "DDIM_STEPS", 2)
    source = tmp_path / "tiny-shapes-mv"
    multiview.main(tmp_path, source, steps=4, renders=24, batch=2)
    teacher = StableDiffusionTeacher.from_pretrained(source)
    assert teacher.views_at_once == 4 and teacher.knows_cameras
    assert teacher.unet.class_embedding.linear_2.weight.abs().max() > 0  # it has learned
    assert not (tmp_path / "mv/corrective").exists()  # that is of single pictures
    noted = json.loads((tmp_path / "multiview.json").read_text())
    assert noted["steps"] == 4 and noted["renders"] == 24
    with pytest.raises(UserError, match=r"no .*views.json; run the stage 'measure_views' first"):
        publish_views.main(tmp_path, tmp_path / "weights")
    measure_views.main(tmp_path, source, steps=4)
    found = json.loads((tmp_path / "views.json").read_text())
    assert found["samples"] == 16 and 0 <= found["obeyed"] <= 1
    assert found["views"] == 16 and list(found["by_object"]) == ["cube"]
    assert found["fid"] is None  # of so few samples

    other = tmp_path / "weights" / "tiny-shapes-0"
    other.mkdir(parents=True)
    (other / "report.json").write_text('{"edition": 7}')
    publish_views.main(tmp_path, tmp_path / "weights")
    (folder,) = set((tmp_path / "weights").iterdir()) - {other}
    assert folder.name.startswith("tiny-shapes-mv-") and edition(folder) == 1
    assert StableDiffusionTeacher.from_pretrained(folder).views_at_once == 4
    card = (folder / "README.md").read_text()
    assert "multiview 4 steps of 2 of 24 renders" in card and "unknown" in card
    assert (folder / "samples.png").is_file()
