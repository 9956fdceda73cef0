"""Bad input on the command line: one clear line, exit code 2, before any training."""

import subprocess
import sys
import time

import pytest
import torch
import toy_extension  # noqa: F401  (registers the toy in this process)
from core_launch import ROOT, TRIAL, launch, losses, prepare_here

from threestudio_asd.cli.main import main
from threestudio_asd.errors import UserError
from threestudio_asd.studio.checkpoint.store import save_atomically


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    return prepare_here(tmp_path, monkeypatch)


def refused(capsys, *arguments):
    """The one line that the launcher prints before it refuses."""
    assert launch(*arguments) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if not x.startswith(("INFO", "WARN"))]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    with pytest.raises(FileNotFoundError):
        losses()
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "--config", "nothing.yaml"], "there is no config nothing.yaml"),
        ([], "--train --validate --test --export is required"),
        (["--train", "--test"], "not allowed with"),
        (["--train", "--gradio"], "--gradio is not implemented"),
        (["--train", "--gpu", "0,1"], "trains on one device"),
        (["--train", "--fast"], '"--fast" is neither an option nor key=value'),
        (["--train", "sistem.x=1"], "unknown config key sistem: did you mean system?"),
        (["--train", "system.widht=1"], "unknown config key system.widht: did you mean width?"),
        (["--train", "system.width=abc"], "system.width = 'abc' has the wrong type: ToySystem"),
        (["--train", "data.sice=1"], "data.sice: did you mean size?"),
        (["--train", "trainer.max_step=1"], "trainer.max_step: did you mean max_steps?"),
        (["--train", "trainer.max_steps=abc"], "trainer.max_steps = 'abc' has the wrong type"),
        (["--train", "trainer.precision=12"], "trainer"),
        (["--train", "trainer.enable_checkpointing=false"], "the config's trainer section"),
        (["--train", "trainer.val_check_interval=0.5"], "the config's trainer section"),
        (["--train", "checkpoint.save_top_k=-2"], "the config's checkpoint section"),
        (["--train", "system_type=toy-sistem"], "Nearest: toy-system"),
        (["--train", "system_type=''"], "no system_type"),
        (["--train", "data_type=toy-dada"], "Nearest: toy-data"),
        (["--train", "system.optimizer.name=Adm"], "did you mean Adam"),
        (["--train", "system.optimizer.params.wait.lr=1"], "params.wait"),
        (["--train", "system.weights=none.ckpt"], "none.ckpt does not exist"),
        (["--train", "tag=${nothing:1}"], "Unsupported interpolation type nothing"),
        (["--train", "system.width=???"], "leaves system.width open"),
        (["--train", "exp_root_dir=toy.yaml"], "cannot write to the trial folder toy.yaml/toy/run"),
        (["--train", "resume=none.ckpt"], "resume=none.ckpt: the checkpoint does not exist"),
    ],
)
def test_refused(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_a_refused_config_leaves_no_folder_behind(capsys):
    for argument in ("system.widht=1", "data.sice=1", "trainer.max_step=1", "data_type=x"):
        refused(capsys, "--train", argument)
    assert not TRIAL.exists()


def checkpoint(**changes):
    good = {"state_dict": {"weight": torch.zeros(4)}, "epoch": 0, "global_step": 3}
    return {**good, "optimizer_states": [], **changes}


@pytest.mark.parametrize("task", ["--train", "--test", "--export"])
def test_checkpoint_of_another_config(capsys, task):
    for state, message in (
        ({"weight": torch.zeros(5)}, r"weight has shape (5,), the config makes (4,)"),
        ({"other": torch.zeros(4)}, "weight is missing"),
    ):
        save_atomically(checkpoint(state_dict=state), "a.ckpt")
        assert message in refused(capsys, task, "resume=a.ckpt")


def test_checkpoint_with_a_module_that_training_lacks(capsys):
    state = {"weight": torch.zeros(4), "guidance.critic": torch.zeros(1)}
    save_atomically(checkpoint(state_dict=state), "a.ckpt")
    assert launch("--test", "resume=a.ckpt") == 0  # evaluation needs no guidance
    assert (TRIAL / "save/it3-test/0.json").is_file()


def test_weights_alone_cannot_be_resumed(capsys):
    weights = checkpoint()
    del weights["optimizer_states"]
    save_atomically(weights, "a.ckpt")
    assert "no training state" in refused(capsys, "--train", "resume=a.ckpt")
    assert launch("--export", "resume=a.ckpt") == 0


def test_damaged_checkpoint(capsys, folder):
    save_atomically(checkpoint(), "a.ckpt")
    (folder / "b.ckpt").write_bytes((folder / "a.ckpt").read_bytes()[:-300])
    for task in ("--train", "--export"):
        assert "damaged or incomplete" in refused(capsys, task, "resume=b.ckpt")


class Code:
    def __reduce__(self):
        return open, ("it_ran", "w")


def test_checkpoint_with_code_does_not_run_it(capsys, folder):
    torch.save(checkpoint(x=Code()), "a.ckpt")
    assert "could run code" in refused(capsys, "--test", "resume=a.ckpt")
    assert "could run code" in refused(capsys, "--train", "system.weights=a.ckpt")
    assert not (folder / "it_ran").exists()


def test_failed_extension_is_named(capsys, folder):
    (folder / "custom" / "bad.py").write_text("import a_module_that_is_not_there")
    assert launch("--train", "system_type=from-bad") == 2
    output = capsys.readouterr().err
    assert output.count("a_module_that_is_not_there") == 2  # at once, and with the missing name
    assert "Traceback" not in output


def test_verbose_keeps_the_traceback():
    with pytest.raises(UserError):
        launch("--train", "--verbose", "data.sice=1")


def test_part_keys_are_checked_before_anything_is_built(capsys, folder):
    arguments = [
        "--train", "system_type=lift-for-test", "system.geometry_type=implicit-volume",
        "system.optimizer=null", "system.optimizer={}",
    ]  # fmt: skip
    from threestudio_asd.host import BaseLift3DSystem
    from threestudio_asd.studio import registry

    if "lift-for-test" not in registry.names():
        registry.register("lift-for-test")(type("Lift", (BaseLift3DSystem,), {}))
    message = refused(capsys, *arguments, "system.geometry.radus=1")
    assert "system.geometry.radus: did you mean radius?" in message
    assert "x.ckpt does not exist" in refused(
        capsys, *arguments, "system.geometry_convert_from=x.ckpt"
    )
    wrong = refused(capsys, *arguments, "system.renderer_type=nerf-volume-rendererr")
    assert "Nearest: nerf-volume-renderer" in wrong


def test_commands(capsys):
    assert main([]) == 0
    assert "launch" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert main(["lunch"]) == 2
    assert 'unknown command "lunch"' in capsys.readouterr().err


def test_in_a_process_of_its_own_and_fast(folder):
    for arguments, message in (
        (("--config", "none.yaml", "--train"), "there is no config none.yaml"),
        (("--config", "toy.yaml"), "is required"),
        (("--config", "toy.yaml", "--train", "sistem=1"), "did you mean system"),
        (("--config", "toy.yaml", "--test", "resume=x.ckpt"), "does not exist"),
    ):
        start = time.monotonic()
        command = [sys.executable, str(ROOT / "launch.py"), *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr and done.stderr.count("\n") == 1
        assert time.monotonic() - start < 20


def test_package_import_is_light():
    code = "import sys, threestudio_asd.cli.main; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "False\n"
