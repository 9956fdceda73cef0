"""stages and demo: stopped in a process of its own, gone on with by the same command."""

import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from processes import Python

from threestudio_asd.cli import main as cli
from threestudio_asd.cli.runs import asked, claimed_run
from threestudio_asd.files import claimed

sys.path.insert(0, str(Path(__file__).parent.parent / "studio"))
import toy_extension  # noqa: F401  (registers the toy in this process)
from core_launch import TOY, prepare

STAGES = ["stages", "--config", "toy.yaml", "--config", "second.yaml", "--prompt", "x"]
DEMO = (
    *("demo", "data.width=16", "data.height=16", "data.batch_size=1", "data.n_val_views=1"),
    *("data.eval_width=16", "data.eval_height=16", "data.n_test_views=1"),
    *("trainer.enable_progress_bar=false", "trainer.val_check_interval=2", "trainer.max_steps=5"),
    "system.renderer.num_samples_per_ray=32",
    *("system.geometry.isosurface_threshold=auto", "system.geometry.isosurface_resolution=16"),
)
# An extension: the process sends itself a signal with its first checkpoint.
AFTER_THE_FIRST_CHECKPOINT = """
import os, signal
from threestudio_asd.studio.run import trainer

save = trainer.save_atomically

def save_and_signal(payload, path):
    save(payload, path)
    trainer.save_atomically = save
    os.kill(os.getpid(), signal.SIGTERM)

trainer.save_atomically = save_and_signal
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with two stages of the toy; this process has the toy already."""
    prepare(tmp_path)
    (tmp_path / "second.yaml").write_text(TOY.replace("system:", "system:\n  stage: geometry"))
    (tmp_path / "custom").rename(tmp_path / "custom-of-others")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def stages(*arguments):
    with mock.patch.object(cli, "PLUGINS", ()):
        return cli.main([*STAGES, *arguments])


def command(*arguments):
    """A process that runs the command line."""
    return Python("-m", "threestudio_asd.cli.main", *arguments)


def last(trial):
    return torch.load(trial / "ckpts/last.ckpt", weights_only=True)


def assert_equal_weights(left, right):
    left, right = last(left)["state_dict"], last(right)["state_dict"]
    assert left.keys() == right.keys()
    assert [k for k in left if not torch.equal(left[k], right[k])] == []


def test_stages_go_on_in_the_stage_that_was_stopped(folder, capsys):
    (folder / "custom-of-others").rename(folder / "custom")
    signals = ("geometry:system.signal_step=2", "geometry:system.signal_name=SIGHUP")
    _, messages = (process := command(*STAGES, "--out", "run", *signals)).communicate(timeout=60)
    assert process.returncode == 129, messages
    assert "at step 3. The same command goes on from there." in messages
    assert "error" not in messages
    assert last(Path("run/geometry"))["global_step"] == 3
    assert list(Path("run/coarse").glob("save/*-test"))
    assert not list(Path("run/geometry").glob("save/*-test"))
    (folder / "custom").rename(folder / "custom-of-others")
    assert stages("--out", "run") == 0
    messages = capsys.readouterr().err
    assert "coarse: finished already (6 steps)" in messages
    assert "geometry: going on from step 3 of 6, in run/geometry" in messages
    assert list(Path("run/geometry").glob("save/it6-test"))
    assert stages("--out", "whole") == 0
    assert_equal_weights(Path("run/geometry"), Path("whole/geometry"))


def test_a_test_that_was_stopped_is_made_up_for(folder, capsys):
    where = ("coarse:system.signal_place=test", "coarse:system.signal_step=6")
    assert stages("--out", "run", *where, "coarse:system.signal_name=SIGTERM") == 143
    assert not Path("run/coarse/save/it6-test/1.json").exists()
    assert stages("--out", "run") == 0
    assert "coarse: trained already (6 steps); its test" in capsys.readouterr().err
    assert Path("run/coarse/save/it6-test/1.json").is_file()


def test_ctrl_c_tests_its_stage_and_ends_the_command(folder, capsys):
    signals = ("coarse:system.signal_step=2", "coarse:system.signal_name=SIGINT")
    assert stages("--out", "run", *signals) == 130
    assert list(Path("run/coarse").glob("save/it3-test"))
    assert not Path("run/geometry").exists()
    assert stages("--out", "run") == 0
    assert "coarse: going on from step 3 of 6" in capsys.readouterr().err


def test_stages_of_a_live_process_are_left_alone(folder, capsys):
    with claimed(Path("run")):
        assert stages("--out", "run") == 2
    assert "error: run is being written by another process" in capsys.readouterr().err
    assert not Path("run/coarse").exists()


@pytest.mark.slow
def test_demo_goes_on_in_its_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "outputs/demo"
    extension = tmp_path / "custom/stopping.py"
    extension.parent.mkdir()
    extension.write_text(AFTER_THE_FIRST_CHECKPOINT)
    _, messages = (process := command(*DEMO)).communicate(timeout=120)
    assert process.returncode == 143, messages
    assert "error" not in messages
    (run,) = runs.iterdir()
    assert last(run / "coarse")["global_step"] == 2
    assert not list(run.glob("*/save/*-test"))

    extension.unlink()
    assert cli.main([*DEMO]) == 0
    shown = capsys.readouterr()
    assert f"going on with {run.relative_to(tmp_path)}: coarse at step 2\n" in shown.err
    assert "since it went on" in shown.out
    assert list(runs.iterdir()) == [run]
    whole = ["--config", str(run / "coarse/configs/parsed.yaml"), "--train", "tag=whole"]
    assert cli.main(["launch", *whole, "resume=null"]) == 0
    assert_equal_weights(run / "coarse", run / "whole")
    assert json.loads((run / "run.json").read_text())["finished"]


def begin(root, prompt="a red mug", overrides=(), new=False, finish=False):
    """A run that ends like a stopped or, with ``finish``, like a finished one."""
    wanted = asked(prompt, ["tiny/asd-nerf"], overrides)
    with claimed_run(root, "a_red_mug", wanted, new) as run:
        if finish:
            run.finish()
    return run


def test_the_newest_unfinished_run_of_the_same_command_is_gone_on_with(tmp_path):
    first = begin(tmp_path)
    assert not first.resumed
    assert begin(tmp_path) == type(first)(first.folder, first.wanted, resumed=True)
    others = [begin(tmp_path, "a red, mug"), begin(tmp_path, overrides=["seed=1"])]
    newer = begin(tmp_path, new=True)
    assert not any(run.resumed for run in (*others, newer))
    assert len({run.folder for run in (first, *others, newer)}) == 4
    assert begin(tmp_path, finish=True).folder == newer.folder
    # The last one is finished: an older one is not taken up again.
    assert not begin(tmp_path).resumed


def test_a_changed_config_is_another_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("name: a\n")
    before = asked("a red mug", ["mine.yaml"], [])
    Path("mine.yaml").write_text("name: b\n")
    assert asked("a red mug", ["mine.yaml"], []) != before


def test_a_run_of_a_live_process_is_not_taken(tmp_path):
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from threestudio_asd.cli.runs import asked, claimed_run\n"
        "wanted = asked('a red mug', ['tiny/asd-nerf'], ())\n"
        "with claimed_run(Path(sys.argv[1]), 'a_red_mug', wanted, False) as run:\n"
        "    print(run.folder, flush=True)\n"
        "    time.sleep(60)\n"
    )
    call = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        theirs = Path(process.stdout.readline().strip())
        ours = begin(tmp_path, finish=True)
        assert (ours.folder != theirs, ours.resumed) == (True, False)
        process.kill()  # a lock does not survive its process
    ours.folder.rename(tmp_path / "elsewhere")
    assert begin(tmp_path).folder == theirs


def test_nowhere_to_run_is_told(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["demo", "--out", str(tmp_path / "file")]) == 2
    assert "Choose another place with --out" in capsys.readouterr().err
