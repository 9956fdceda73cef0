"""The code in docs/extending.md, as a user would run it."""

import json
import re
from pathlib import Path

import imageio.v2 as imageio
import pytest
import torch

from threestudio_asd.cli.main import main
from threestudio_asd.compare.measure import measures
from threestudio_asd.distill import METHODS
from threestudio_asd.studio.registry import find
from threestudio_asd.studio.run.extensions import load_extensions

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
#: custom/<name>.py -> its text
FILES = dict(re.findall(r"```python\n# custom/(\w+)\.py\n(.*?)```", PAGE.read_text(), re.S))
SMALL = ("system.n_particles=2", "data.batch_size=2", "system.shape=null")

GUIDANCE = "system.guidance"

#: file -> the method that it registers
METHODS_OF = {"classifier": "classifier", "robust": "robust-asd", "inverted": "inverted-sds"}
OTHERS = {"grey", "mirrored", "contrast"}


@pytest.fixture
def custom(tmp_path, forget_methods):
    """Puts a block of the page into the user's folder."""

    def put(file):
        (tmp_path / "custom").mkdir()
        (tmp_path / "custom" / f"{file}.py").write_text(FILES[file])

    return put


@pytest.mark.parametrize("file", METHODS_OF)
def test_a_method_of_a_users_own_file_has_a_name(launch, logged, custom, file):
    custom(file)
    name = METHODS_OF[file]
    assert name not in METHODS
    assert launch(*SMALL, f"{GUIDANCE}.method={name}", "trainer.max_steps=1") == 0
    log = logged()
    assert log["train/grad_norm"][0] > 0
    assert ("train/critic_repel" in log) == (file == "robust")


def test_rows_follow_one_another(launch, logged, custom):
    custom("classifier")
    stages = f"{GUIDANCE}.method={{0: vsd, 2: classifier}}"
    assert launch(*SMALL, stages, "trainer.max_steps=4") == 0
    log = logged()
    critic = log["train/loss_lora"]  # the log repeats the last value of what has ended
    assert critic[0] != critic[1] == critic[2] == critic[3]
    assert len({*log["train/loss_asd"]}) == 4


def test_a_teacher_of_a_users_own_file_teaches(launch, custom, trial):
    custom("grey")
    pixels = (
        "system.parametrization=pixels",
        f"{GUIDANCE}.guidance_scale=1",
        "trainer.max_steps=60",
    )
    options = (*SMALL, *pixels, f"{GUIDANCE}.teacher_type=grey", f"{GUIDANCE}.method=sds")
    assert launch(*options, "system.init_std=3", "system.optimizer.params.particles.lr=0.2") == 0
    picture = imageio.imread(next(trial.glob("save/it60-test.png"))) / 255
    assert abs(picture[..., :3] - 0.5).mean() < 0.1  # 0.36 at the start


def test_a_critic_on_a_unet_is_refused_to_a_teacher_without(launch, custom, capsys):
    custom("grey")
    options = (*SMALL, "system.parametrization=pixels", f"{GUIDANCE}.teacher_type=grey")
    assert launch(*options, f"{GUIDANCE}.method=asd") != 0
    assert "the teacher of teacher_type 'grey' has none" in capsys.readouterr().err


def test_a_geometry_of_a_users_own_file_is_trained(custom, tmp_path, monkeypatch):
    custom("mirrored")
    monkeypatch.chdir(tmp_path)
    load_extensions()
    volume = find("mirrored-volume")({"n_feature_dims": 3, "normal_type": None})
    points = torch.rand(50, 3) * 2 - 1
    density = volume(points)["density"]
    mirrored = volume(points * torch.tensor([1.0, -1.0, 1.0]))["density"]
    turned = volume(points * torch.tensor([-1.0, 1.0, 1.0]))["density"]
    torch.testing.assert_close(density, mirrored)
    assert not torch.allclose(density, turned, rtol=1e-6, atol=0)


@pytest.mark.slow
def test_a_measure_of_a_users_own_file_is_in_record_and_tables(custom, tmp_path, monkeypatch):
    custom("contrast")
    monkeypatch.chdir(tmp_path)
    known = dict(measures.MEASURES)
    flags = ("--methods", "SDS", "--scales", "7.5", "--prompts", "a red mug", "--seeds", "0")
    try:
        assert main(["compare", *flags, "--steps", "2", "--jobs", "1", "--out", "out"]) == 0
    finally:
        measures.MEASURES.clear()
        measures.MEASURES.update(known)
    (file,) = (tmp_path / "out/cells").glob("*.json")
    record = json.loads(file.read_text())
    assert len(record["contrast"]) == len(record["p_pair"]) and min(record["contrast"]) > 0
    assert (
        "## contrast\n\nstandard deviation of the grey values"
        in (tmp_path / "out/tables.md").read_text()
    )


def test_every_block_of_the_page_is_run_and_about_ten_lines_long():
    assert set(FILES) == {*METHODS_OF, *OTHERS}
    assert PAGE.read_text().count("```python") == len(FILES)
    assert all(len([line for line in text.splitlines() if line]) <= 10 for text in FILES.values())
