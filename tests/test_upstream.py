"""Against a real threestudio: set THREESTUDIO_PATH to a checkout of it.

Its Python dependencies must be there too: pip install threestudio-asd[upstream].
"""

import os
from pathlib import Path

import pytest
import torch
from both_hosts import ROOT, losses_of_both, require_equal, run
from contract.compare import committed, differences, read
from omegaconf import OmegaConf

CHECKOUT = os.environ.get("THREESTUDIO_PATH", "")

pytestmark = pytest.mark.skipif(not CHECKOUT, reason="THREESTUDIO_PATH is not set")


def test_facts_are_those_of_the_checkout(tmp_path):
    run([str(ROOT / "tests/contract/extract.py"), CHECKOUT, "--out", str(tmp_path)], tmp_path)
    assert differences(committed(), read(tmp_path)) == {}


def test_checkout_trains_all_stages(tmp_path):
    """Five steps each, on its own geometries, renderers, systems' base and saver."""
    stages = {
        "nerf": [],
        "geometry": ["system.geometry_convert_override.isosurface_threshold=auto"],
        "texture": [],
    }
    before = None
    for stage, overrides in stages.items():
        if before is not None:
            # Of its grids' files, the smallest.
            overrides += [f"system.geometry_convert_from={before / 'ckpts/last.ckpt'}"]
            overrides += ["system.geometry.isosurface_resolution=32"]
        before = trained(stage, overrides, tmp_path)
    geometry, texture = (
        torch.load(tmp_path / f"asd-{stage}-tiny/a_red_mug/ckpts/last.ckpt", weights_only=False)
        for stage in ("geometry", "texture")
    )
    shape = geometry["state_dict"]["geometry.sdf"]
    assert shape.min() < 0 < shape.max()
    assert torch.equal(shape, texture["state_dict"]["geometry.sdf"])


def trained(stage: str, overrides: list[str], folder: Path) -> Path:
    """The trial of five steps of a config of the embedded world in the checkout."""
    config = ROOT / "configs" / "tiny" / f"asd-{stage}.yaml"
    sizes = ["width=32", "height=32", "eval_width=16", "eval_height=16", "n_test_views=2"]
    run(
        [
            *("-m", "threestudio_asd.cli.main", "upstream", CHECKOUT),
            *("--config", str(config), "--train"),
            "system.prompt_processor.prompt=a red mug",
            f"exp_root_dir={folder}",
            "use_timestamp=false",
            "trainer.max_steps=5",
            "trainer.val_check_interval=5",
            "checkpoint.every_n_train_steps=5",
            *(f"data.{size}" for size in sizes),
            *overrides,
        ],
        folder,
    )
    trial = folder / f"asd-{stage}-tiny" / "a_red_mug"
    assert (trial / "ckpts" / "last.ckpt").is_file()
    assert (trial / "save" / "it5-test.mp4").is_file()
    assert OmegaConf.load(trial / "configs" / "parsed.yaml").trainer.max_steps == 5
    columns, *rows = (trial / "csv_logs/version_0/metrics.csv").read_text().splitlines()
    assert "train/loss_asd" in columns
    assert "nan" not in "".join(rows)
    return trial


def test_first_losses_are_those_of_the_bundled_host(tmp_path):
    config = ROOT / "configs" / "tiny" / "asd-nerf.yaml"
    bundled, upstream = losses_of_both(tmp_path, CHECKOUT, config, "system.loss.lambda_sparsity=50")
    assert {"train/loss_asd", "train/loss_lora", "train/loss_sparsity"} <= bundled.keys()
    require_equal(bundled, upstream)
