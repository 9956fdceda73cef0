"""The judge on trials that bundled and real host leave behind."""

import json

import pytest
import torch

from threestudio_asd import homes
from threestudio_asd.cli.main import PLUGINS, main
from threestudio_asd.studio.run import launch


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """Two steps of a small scene."""
    folder = tmp_path_factory.mktemp("outputs")
    launch.main(
        [
            *("--config", "tiny/asd-nerf", "--train", "system.prompt_processor.prompt=a blue cube"),
            *(f"exp_root_dir={folder}", "name=judged", "tag=cube", "use_timestamp=false"),
            *("trainer.max_steps=2", "trainer.val_check_interval=100", "data.batch_size=1"),
            *("data.width=16", "data.height=16", "data.eval_width=16", "data.eval_height=16"),
            *("data.n_test_views=1", "system.renderer.num_samples_per_ray=16"),
        ],
        plugins=PLUGINS,
    )
    return folder / "judged/cube"


@pytest.fixture
def checkpoint(trial):
    """The trial's checkpoint, put back afterwards."""
    path = trial / "ckpts/last.ckpt"
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


@pytest.mark.slow
def test_it_tells_of_eight_views_and_takes_the_prompt_from_the_trial(trial, capsys):
    assert main(["judge", str(trial)]) == 0
    told = capsys.readouterr().out
    assert "of 8 views right" in told
    assert "probability of a blue cube: 0." in told
    assert (trial / "fixed_views.png").is_file()
    verdict = json.loads((trial / "verdict.json").read_text())
    assert 0 <= verdict["volume_iou"] <= 1 and 0 <= verdict["surface_fscore"] <= 1
    assert f"F-score {verdict['surface_fscore']:.2f}" in told
    assert f"the front is {verdict['azimuth_error']:.0f} degrees" in told
    assert main(["judge", str(trial), "--prompt", "a red cube"]) == 0
    assert "probability of a red cube" in capsys.readouterr().out


@pytest.mark.slow
def test_the_empty_tables_of_threestudio_are_left_out(trial, checkpoint):
    saved = torch.load(checkpoint, weights_only=True)
    saved["state_dict"]["background.encoding.encoding.encoding.params"] = torch.zeros(0)
    torch.save(saved, checkpoint)
    assert main(["judge", str(trial)]) == 0


def test_a_checkpoint_without_the_scene_is_refused(trial, checkpoint, capsys):
    saved = torch.load(checkpoint, weights_only=True)
    table = next(k for k in saved["state_dict"] if k.startswith("geometry.encoding"))
    del saved["state_dict"][table]
    torch.save(saved, checkpoint)
    assert main(["judge", str(trial)]) == 2
    assert f"belongs to another config: {table} is missing" in capsys.readouterr().err


def test_no_trial_and_a_prompt_of_another_world_are_refused(trial, tmp_path, capsys):
    assert main(["judge", str(tmp_path)]) == 2
    assert "it has no configs/parsed.yaml" in capsys.readouterr().err
    assert main(["judge", str(trial), "--prompt", "a hamburger"]) == 2
    assert "one object and one colour" in capsys.readouterr().err


def test_a_trial_that_cannot_be_written_to_is_told_before_it_is_loaded(trial, monkeypatch, capsys):
    monkeypatch.setattr(homes, "unwritable", lambda folder: "Read-only file system")
    (trial / "verdict.json").unlink(missing_ok=True)
    assert main(["judge", str(trial)]) == 2
    assert "Read-only file system. Judge a copy" in capsys.readouterr().err
    assert not (trial / "verdict.json").exists()
