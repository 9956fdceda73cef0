"""The corrective network of tiny-shapes: what it knows, and how it is trained."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.unet import CorrectiveNet
from threestudio_asd.tiny import model_folder
from threestudio_asd.tiny.train import corrective, loop

FOLDER = Path(model_folder("tiny-shapes"))


@pytest.fixture(scope="module")
def teacher():
    return StableDiffusionTeacher.from_pretrained(FOLDER)


@pytest.mark.long
def test_the_published_one_is_small_and_knows_what_much_noise_does(teacher):
    net = teacher.corrective()
    assert sum(p.numel() for p in net.parameters()) <= 500_000
    files = [file for file in (FOLDER / "corrective").iterdir() if file.suffix == ".safetensors"]
    assert sum(file.stat().st_size for file in files) <= 1e6
    x0 = corrective.held_out_latents(teacher, 24)
    found = corrective.measure(net, corrective.Denoised(teacher), x0)
    claimed = json.loads((FOLDER / "corrective/report.json").read_text())["errors"]
    for time, errors in found.items():
        assert errors["network"] == pytest.approx(claimed[time]["network"], rel=0.3)
        # At small t what the teacher changes is mostly the noise's doing, which nobody can guess.
        share = 0.9 if int(time) >= 700 else 1.1
        assert errors["network"] < share * errors["teacher"]
    # With the noise grows what the teacher changes.
    away = [errors["teacher"] for errors in found.values()]
    assert away == sorted(away)


def test_the_identity_is_off_by_what_the_teacher_changes(teacher):
    x0 = torch.randn(3, 4, 16, 16)
    found = corrective.measure(corrective.new_corrective(), corrective.Denoised(teacher), x0)
    assert list(found) == [str(t) for t in corrective.MEASURED_TIMES]
    assert all(errors["network"] == errors["teacher"] > 0.01 for errors in found.values())


def test_the_teacher_is_asked_without_a_prompt(teacher):
    x0, noise, t = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16), torch.tensor([200, 800])
    null = teacher.embed_text(["", ""])
    schedule = teacher.schedule
    x_t = schedule.add_noise(x0, noise, t)
    epsilon = teacher.epsilon(x_t, t, null)
    expected = (x_t - schedule.sigma(t, x0) * epsilon) / schedule.alpha(t, x0)
    torch.testing.assert_close(corrective.Denoised(teacher)(x0, t, noise), expected)


@pytest.mark.slow
def test_a_stage_trains_goes_on_and_writes_beside_the_unet(tmp_path, monkeypatch):
    monkeypatch.setattr(corrective, "MEASURED", 4)
    out, work = tmp_path / "model", tmp_path / "work"
    shutil.copytree(FOLDER, out, ignore=shutil.ignore_patterns("corrective"))
    few = {"renders": 96, "batch": 4}
    corrective.main(work, out, steps=2, **few)
    first = CorrectiveNet.load(out).state_dict()
    assert first["net.conv_out.weight"].abs().max() > 0  # it has learned
    report = json.loads((out / "corrective/report.json").read_text())
    assert report == json.loads((work / "corrective.json").read_text())
    assert (report["steps"], report["renders"], report["hardware"]) == (2, 96, "CPU")
    assert (work / "corrective.png").is_file()
    # What is done is not done again.
    monkeypatch.setattr(loop._Training, "advance", None)
    corrective.main(work, out, steps=2, **few)
    again = CorrectiveNet.load(out).state_dict()
    assert all(torch.equal(again[key], value) for key, value in first.items())
