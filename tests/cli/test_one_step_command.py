"""``one-step``: what a person types, what comes out, and what is said of what cannot be."""

import json

import pytest
import torch
from PIL import Image

from threestudio_asd.cli.main import main
from threestudio_asd.generators.config import load
from threestudio_asd.generators.one_step import save_generator
from threestudio_asd.teachers.one_step import OneStepGenerator, read_note
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny.random_sd import write_random_sd


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(random_sd, tmp_path):
    generator = OneStepGenerator.of(FrozenUNet.load(random_sd))
    return save_generator(generator, tmp_path / "generator", random_sd, "sid")


def small(teacher, *more):
    given = [f"teacher={teacher}", "settings.batch=2", "steps=2", "out=out", "reals.count=6"]
    return ["one-step", "train", "--config", "tiny/sida", *given, *more]


def test_a_training_leaves_a_generator(random_sd, tmp_path, capsys):
    early = ("settings.generator_from=0", "settings.adversarial_from=0")
    assert main(small(random_sd, *early, "save_every=1")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "out/model"
    note = read_note("out/model")
    assert (note.method, note.init_timestep, note.teacher) == ("sida", 625, str(random_sd))
    trained = OneStepGenerator.load("out/model").unet.conv_in.weight
    before = FrozenUNet.load(random_sd).unet.conv_in.weight
    assert trained.isfinite().all() and not torch.allclose(trained, before, atol=1e-6)
    assert Image.open(tmp_path / "out/samples/000002.png").size == (8 * 64, 2 * 64)
    # The same command has nothing left to do, and another one does not go on by mistake.
    assert main(small(random_sd, *early, "save_every=1")) == 0
    assert torch.equal(OneStepGenerator.load("out/model").unet.conv_in.weight, trained)
    assert main(small(random_sd, *early, "settings.alpha=0.5")) == 2
    assert "of a training with other settings (alpha)" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["sid", "dmd2", "add"])
def test_other_rows_train(random_sd, method):
    assert main(small(random_sd, f"method={method}", "steps=1")) == 0
    assert read_note("out/model").method == method


def test_a_generator_goes_on_with_an_adversary_and_a_small_fake_network(random_sd, folder):
    more = ("method=sid2a", f"start_from={folder}", "fake_rank=2", "settings.fake_steps=2")
    assert main(small(random_sd, *more)) == 0
    assert read_note("out/model").method == "sid2a"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"sample_size": 16}, "has other latents or another schedule than the teacher"),
        ({"text_width": 32}, "reads text embeddings of 32 numbers and the teacher"),
    ],
)
def test_a_generator_of_another_teacher_is_no_beginning(
    random_sd, tmp_path, capsys, other, message
):
    model = write_random_sd(tmp_path / "other", **other)
    begun = save_generator(OneStepGenerator.of(FrozenUNet.load(model)), "g", model, "sid")
    assert main(small(random_sd, "method=sid2a", f"start_from={begun}")) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert message in said and "name the teacher that it was trained from" in said


def test_a_generator_of_another_level_is_no_beginning(random_sd, folder, capsys):
    more = ("method=sid2a", f"start_from={folder}", "settings.init_timestep=500")
    assert main(small(random_sd, *more)) == 2
    assert "draws from level 625: set settings.init_timestep=625" in capsys.readouterr().err


def test_an_epsilon_teacher_with_pure_noise_is_refused(tmp_path, capsys):
    """Zero terminal SNR, where an epsilon says nothing of the picture."""
    model = write_random_sd(tmp_path / "zero")
    file = model / "scheduler/scheduler_config.json"
    values = json.loads(file.read_text()) | {"rescale_betas_zero_snr": True}
    file.write_text(json.dumps(values))
    assert main(small(model)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be a teacher: it is an eps" in said and "zero" in said


def test_samples_are_a_picture(folder, tmp_path, capsys):
    prompts = ["a red mug", "a blue cube"]
    command = ["one-step", "sample", str(folder), "--prompt", *prompts, "--count", "3"]
    assert main([*command, "--out", "new/a.png"]) == 0
    assert "new/a.png: 6 pictures in " in capsys.readouterr().out
    assert Image.open("new/a.png").size == (3 * 64, 2 * 64)
    assert main([*command, "--out", "b.png"]) == main([*command, "--out", "c.png", "--seed", "1"])
    first, same, other = (Image.open(f).tobytes() for f in ("new/a.png", "b.png", "c.png"))
    assert first == same != other
    assert main([*command, "--steps", "2", "--out", "d.webp"]) == 0


def test_an_evaluation_is_a_page_and_figures(folder, capsys):
    command = ["one-step", "evaluate", str(folder), "--samples", "3", "--truth", "4"]
    assert main([*command, "--steps", "1", "--scales", "--out", "e"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["e/results.json", "e/index.html"]
    with open("e/results.json") as stream:
        found = json.load(stream)
    assert [row["series"] for row in found["rows"]] == ["true renders", "autoencoder alone", "sid"]
    assert found["commands"][0].startswith("threestudio-asd one-step evaluate ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: command"),
        (["draw"], "invalid choice: 'draw'"),
        (["train", "--config", "gone"], "there is no config gone"),
        (["train", "steps"], '"steps" is neither an option nor key=value'),
        (["train", "stepz=1"], "unknown config key stepz: did you mean steps?"),
        (["train", "reals.sort=1"], "unknown config key reals.sort"),
        (["train", "steps=0"], "steps=0: at least 1"),
        (["train", "steps=many"], "config key steps = 'many' has the wrong type"),
        (["train", "method=sidd"], "Unknown one-step method 'sidd'; choose one of: add"),
        (["train", "settings.alpa=1"], "alpa"),
        (["train", "settings.batch=0"], "batch must be positive; got 0"),
        (["train", "method=sid2a"], "name its folder, start_from=..."),
        (["train", "reals.type=none"], "choose another reals.type than none"),
        (["train", "precision=fp16"], "precision=fp16: use fp32 or bf16"),
        (["train", "teacher=/gone"], "/gone"),
        (["train", "--config", "sida"], "reals.folder open"),
        (["sample", "/gone", "--prompt", "x"], "There is no folder '/gone'"),
        (["sample", "/gone"], "--prompt"),
        (["sample", "/gone", "--prompt", "x", "--count", "0"], "--count 0: at least 1"),
        (["sample", "/gone", "--prompt", "x", "--out", "x.txt"], "ending in .png or .jpg"),
        (["sample", "/gone", "--prompt", "x", "--gpu", "a"], "--gpu a"),
        (["evaluate", "/gone"], "There is no folder '/gone'"),
        (["evaluate", "/gone", "x=1", "--samples", "a"], "--samples: invalid int value"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, message, capsys):
    assert main(["one-step", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.parametrize(("name", "given"), [("tiny/sida", []), ("sida", ["reals.folder=x"])])
def test_the_shipped_configs_are_read(name, given):
    cfg = load(name, given)
    assert cfg.method == "sida" and cfg.out.startswith("outputs/one-step/sida")
    assert cfg.reals.seed == 0 and cfg.reals.type in ("world", "folder")
