"""Folders of trials: fit names, none for two runs, and the checkpoints in them."""

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import toy_extension  # noqa: F401  (registers the toy in this process)
from core_launch import ROOT, launch, prepare
from omegaconf import OmegaConf
from prompts import PROMPTS

from threestudio_asd.errors import UserError
from threestudio_asd.studio.checkpoint.store import find_last_path, load_checkpoint
from threestudio_asd.studio.config import experiment, trials
from threestudio_asd.studio.config.experiment import load_config


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """The toy experiment's folder, in a working folder that has nothing else; one step is a run."""
    prepare(tmp_path)
    (tmp_path / "custom" / "toy_extension.py").unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return Path("outputs/toy")


@pytest.fixture
def frozen(monkeypatch):
    """A clock that stands still."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2030, 1, 2, 3, 4, 5)

    monkeypatch.setattr(experiment, "datetime", Clock)


TIMED = ("--train", "use_timestamp=true", "trainer.max_steps=1")


@pytest.mark.parametrize("tag", PROMPTS)
def test_a_trials_folder_is_one_folder_of_its_experiment(tag, tmp_path):
    cfg = load_config("name: x", from_string=True, cli_args=[f"tag={tag}"], exp_root_dir="out")
    assert cfg.tag == tag
    for folder in (Path(cfg.trial_dir), Path("out/x") / trials.folder_name(tag)):
        assert Path(os.path.normpath(folder)).parent == Path("out/x")
        (tmp_path / folder).mkdir(parents=True)
    assert cfg.trial_name.isprintable() and len(cfg.trial_name.encode()) <= 143
    assert not cfg.trial_name.startswith(".")  # hidden
    if tag.isprintable() and not tag.startswith(".") and "/" not in tag and len(tag) <= 100:
        assert cfg.trial_name == f"{tag}{cfg.timestamp}"


def test_long_prompts_with_the_same_beginning_have_different_folders():
    first, second = ("a mug " * 60 + end for end in ("red", "blue"))
    names = {trials.folder_name(first), trials.folder_name(second)}
    assert len(names) == 2 and all(len(name) == trials.LONGEST for name in names)
    assert trials.folder_name(first) == trials.folder_name(first)
    assert all(trials.folder_name(name) == name for name in names)


def test_two_trials_in_one_second(outputs, frozen):
    for _ in range(3):
        assert launch(*TIMED) == 0
    names = sorted(folder.name for folder in outputs.iterdir())
    assert names == [f"run@20300102-030405{n}" for n in ("", "-2", "-3")]
    for name in names:
        parsed = OmegaConf.load(outputs / name / "configs/parsed.yaml")
        assert parsed.trial_name == name and parsed.trial_dir == str(outputs / name)
        assert (outputs / name / "ckpts/last.ckpt").is_file()
    # Each is gone on with in its own folder, by its own config ...
    second = outputs / names[1]
    own = ("--config", str(second / "configs/parsed.yaml"))
    more = ("--train", f"resume={second}/ckpts/last.ckpt", "trainer.max_steps=2")
    assert launch(*more, *own) == 0
    assert sorted(folder.name for folder in outputs.iterdir()) == names
    assert (second / "save/it2-test/0.json").is_file()
    # ... which does not begin a second run in it, nor does another config that goes on from it.
    assert launch(*TIMED, "--config", str(outputs / names[0] / "configs/parsed.yaml")) == 0
    assert launch(*more, "use_timestamp=true") == 0
    assert len(list(outputs.iterdir())) == 5
    assert find_last_path(f"{outputs}/run@LAST") == f"{outputs}/run@20300102-030405-5"


def test_a_run_without_time_has_the_folder_that_was_asked_for(outputs):
    for _ in range(2):
        assert launch("--train", "trainer.max_steps=1") == 0
    assert [folder.name for folder in outputs.iterdir()] == ["run"]


def test_processes_that_begin_at_once_get_folders_of_their_own(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from threestudio_asd.studio.config import trials\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "times = (['@now'] + [f'@now-{n}' for n in range(2, 200)])\n"
        "for _ in range(20):\n"
        "    print(trials.make_new(Path(sys.argv[1]), 'x', iter(times))[0].name)"
    )
    start = str(datetime.now().timestamp() + 1.0)
    command = [sys.executable, "-c", code, str(tmp_path), start]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    made = [name for process in running for name in process.communicate()[0].split()]
    assert len(made) == len(set(made)) == len(list(tmp_path.iterdir())) == 80


def test_a_folder_in_place_of_a_checkpoint(outputs, capsys):
    assert launch("--train", "trainer.max_steps=3") == 0
    trial, last = outputs / "run", outputs / "run/ckpts/last.ckpt"
    for folder in (trial, trial / "ckpts"):
        assert launch("--test", f"resume={folder}") == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"error: resume={folder}: it is a folder; name the checkpoint in it, {last}"
        )
        with pytest.raises(UserError, match=f"it is a folder; name the checkpoint in it, {last}"):
            load_checkpoint(folder)
    last.unlink()
    assert launch("--test", f"resume={trial}") == 2
    assert f"{trial}/ckpts/epoch=0-step=3.ckpt" in capsys.readouterr().err
    assert launch("--test", "resume=custom") == 2
    assert "resume=custom: it is a folder without a checkpoint" in capsys.readouterr().err


def test_the_word_last_in_a_prompt_is_no_wish(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trial = Path("the_LAST_supper@20300102-030405")
    trial.mkdir()
    assert find_last_path(str(trial)) == str(trial)
    tag = "a_very_long_prompt_" * 20
    (tmp_path / f"{trials.folder_name(tag)}@20300102-030405").mkdir()
    assert find_last_path(f"{tag}@LAST") == f"{trials.folder_name(tag)}@20300102-030405"
