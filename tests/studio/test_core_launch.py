"""Whole runs of the toy system through the command line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_extension  # noqa: F401  (registers the toy in this process)
from core_launch import RESUME, ROOT, TRIAL, launch, launch_process, losses, prepare, prepare_here
from omegaconf import OmegaConf


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder for runs in this process."""
    return prepare_here(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """An uninterrupted run of 6 steps."""
    folder = tmp_path_factory.mktemp("whole")
    prepare(folder)
    (folder / "custom" / "toy_extension.py").unlink()
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert launch("--train") == 0
    finally:
        os.chdir(before)
    return folder


def test_trial_folder_has_threestudios_layout(whole_run):
    trial = whole_run / TRIAL
    expected = [
        "ckpts/epoch=0-step=3.ckpt",
        "ckpts/epoch=0-step=6.ckpt",
        "ckpts/last.ckpt",
        "configs/parsed.yaml",
        "configs/raw.yaml",
        "csv_logs/version_0/metrics.csv",
        "cmd.txt",
        "save/it2-0.png",
        "save/it6-1.png",
        "save/it6-test/0.json",
    ]
    assert [path for path in expected if not (trial / path).is_file()] == []
    assert list((trial / "tb_logs").rglob("events*"))
    assert list(trial.rglob(".*.partial")) == []
    assert OmegaConf.load(trial / "configs/parsed.yaml").trainer.max_steps == 6
    assert "toy-system" in (trial / "configs/raw.yaml").read_text()


def test_batch_number_step_and_noise_go_together(whole_run):
    lines = losses(whole_run)
    assert [line.split()[:2] for line in lines.values()] == [[str(k)] * 2 for k in range(6)]


@pytest.mark.slow
def test_killed_run_resumes_with_equal_losses(whole_run, tmp_path, monkeypatch):
    # In a process of its own, with the toy as an extension in custom/; killed in step 5, after
    # the checkpoint of step 4's validation.
    prepare(tmp_path)
    arguments = ("--config", "toy.yaml", "--train", "--gpu", "0")
    killed = launch_process(tmp_path, *arguments, "system.signal_step=5")
    assert killed.returncode == -signal.SIGKILL
    assert "running on the CPU" in killed.stderr
    assert max(losses(tmp_path)) == 4
    (tmp_path / "losses.txt").unlink()
    (tmp_path / "custom" / "toy_extension.py").unlink()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert launch("--train", RESUME, "system.signal_step=-1") == 0
    assert not list(tmp_path.rglob("*-v1.ckpt"))
    resumed, whole = losses(tmp_path), losses(whole_run)
    assert sorted(resumed) == [4, 5]
    assert resumed == {step: whole[step] for step in resumed}
    left, right = (
        torch.load(f / TRIAL / "ckpts/last.ckpt", weights_only=True) for f in (tmp_path, whole_run)
    )
    assert torch.equal(left["state_dict"]["weight"], right["state_dict"]["weight"])


def test_interrupt_saves_and_goes_on_to_test(folder):
    before = signal.getsignal(signal.SIGINT)
    assert launch("--train", "system.signal_step=2", "system.signal_name=SIGINT") == 0
    assert sorted(losses()) == [0, 1, 2]
    assert torch.load(TRIAL / "ckpts/last.ckpt", weights_only=True)["global_step"] == 3
    assert (TRIAL / "save/it3-test/1.json").is_file()
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupted_run_resumes_with_equal_losses(folder, whole_run):
    assert launch("--train", "system.signal_step=2", "system.signal_name=SIGINT") == 0
    Path("losses.txt").unlink()
    assert launch("--train", RESUME) == 0
    whole = losses(whole_run)
    assert losses() == {step: whole[step] for step in (3, 4, 5)}


def test_the_last_step_is_saved_whatever_the_intervals(folder):
    early = ("trainer.max_steps=5", "trainer.val_check_interval=4")
    assert launch("--train", *early) == 0
    assert torch.load(TRIAL / "ckpts/last.ckpt", weights_only=True)["global_step"] == 5
    # ... and training goes on from it.
    assert launch("--train", RESUME, "trainer.max_steps=7") == 0
    assert sorted(losses()) == list(range(7))


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_step_that_is_not_finite_is_skipped(folder, kind, capsys):
    gradients = f"system.nan_gradients={kind == 'gradient'}"
    assert launch("--train", "system.nan_steps=[2]", gradients) == 0
    weights = [
        torch.load(TRIAL / "ckpts" / f"epoch=0-step={n}.ckpt", weights_only=True)["state_dict"]
        for n in (3, 6)
    ]
    assert all(torch.isfinite(w["weight"]).all() for w in weights)
    assert "1 steps were not finite" in capsys.readouterr().err
    # Cameras and noise of the later steps are those of a run without the accident.
    assert [line.split()[1] for line in losses().values()] == [str(k) for k in range(6)]


def test_ten_steps_that_are_not_finite_end_the_training(folder, capsys):
    steps = str(list(range(3, 20))).replace(" ", "")
    assert launch("--train", f"system.nan_steps={steps}", "trainer.max_steps=20") == 2
    error = capsys.readouterr().err
    assert "10 steps in a row, from step 3 on" in error
    assert "Traceback" not in error
    last = torch.load(TRIAL / "ckpts/last.ckpt", weights_only=True)
    good = torch.load(TRIAL / "ckpts/epoch=0-step=3.ckpt", weights_only=True)
    assert last["global_step"] == 13
    assert torch.equal(last["state_dict"]["weight"], good["state_dict"]["weight"])


def test_evaluation_of_a_trial(whole_run, monkeypatch):
    monkeypatch.chdir(whole_run)
    parsed = f"{TRIAL}/configs/parsed.yaml"
    for task, made in (
        ("--validate", "save/it3-0.png"),
        ("--test", "save/it3-test/1.json"),
        ("--export", "save/it3-export/weight.npy"),
    ):
        resume = f"resume={TRIAL}/ckpts/epoch=0-step=3.ckpt"
        exporter = "system.cleanup_after_test_step=true"
        assert launch(task, resume, exporter, "--config", parsed) == 0
        assert (TRIAL / made).is_file()


def test_losses_are_logged(whole_run):
    text = (whole_run / TRIAL / "csv_logs/version_0/metrics.csv").read_text()
    assert "train/loss" in text.splitlines()[0]
    assert len(text.splitlines()) >= 6


def test_second_interrupt_stops_at_once(folder):
    # A bare SIGINT outside training: exit code 130 and one line.
    code = (
        "import sys, threestudio_asd.cli.main as m\n"
        "def interrupted(argv): raise KeyboardInterrupt\n"
        "m.COMMANDS['launch'] = ('', interrupted)\n"
        "sys.exit(m.main(['launch']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
