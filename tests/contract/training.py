"""Facts about the course of a training: hooks, the steps they are told, folders of trials."""

import logging
import re
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from contract.cameras import PIXEL
from contract.definitions import outcome
from contract.hosts import Host
from omegaconf import OmegaConf
from torch import Tensor, nn

TRAINER = {
    "accelerator": "cpu",
    "max_steps": 3,
    "val_check_interval": 2,
    "num_sanity_val_steps": 0,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def hooks(host: Host) -> dict[str, Any]:
    """What a system and a module of it are told, in order; "update 0 2" is epoch 0, step 2."""
    events: list[str] = []

    class Part(host.base_module):
        def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
            events.append(f"part update {epoch} {global_step}")

        def update_step_end(self, epoch: int, global_step: int) -> None:
            events.append(f"part end {epoch} {global_step}")

    class System(host.base_system):
        def configure(self) -> None:
            events.append("configure")
            self.part = Part({})
            self.value = nn.Parameter(torch.zeros(1))

        def post_configure(self) -> None:
            events.append("post_configure")

        def preprocess_data(self, batch: Any, stage: str) -> None:
            events.append(f"preprocess {stage}")

        def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
            events.append(f"system update {epoch} {global_step}")

        def update_step_end(self, epoch: int, global_step: int) -> None:
            events.append(f"system end {epoch} {global_step}")

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            scheduled = self.C(OmegaConf.create([0, 0.0, 1.0, 4]))
            events.append(f"train {batch_idx} {self.true_global_step} {scheduled}")
            return (self.value - 1).square().sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            events.append(f"validate {batch_idx} {self.true_global_step}")

        def on_validation_epoch_end(self) -> None:
            events.append("validated")

        def test_step(self, batch: Any, batch_idx: int) -> None:
            events.append(f"test {batch_idx} {self.true_global_step}")

    eval_size = {"eval_height": 1, "eval_width": 1, "n_val_views": 2, "n_test_views": 1}
    data = host.registry["random-camera-datamodule"](OmegaConf.create({**PIXEL, **eval_size}))
    system = System(OmegaConf.create({"optimizer": {"name": "SGD", "args": {"lr": 0.5}}}))
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    trainer = pl.Trainer(**TRAINER)
    trainer.fit(system, datamodule=data)
    trainer.test(system, datamodule=data, verbose=False)
    resumed = System(OmegaConf.create({}), resumed=True)
    resumed.set_resume_status(1, 7)
    return {
        "events": events,
        "value": system.value.item(),
        "resumed": [resumed.resumed, resumed.true_current_epoch, resumed.true_global_step],
    }


EXPERIMENTS = {
    "defaults": {},
    "tag": {"name": "asd", "tag": "a_red_mug"},
    "no-timestamp": {"tag": "fixed", "use_timestamp": False},
    "neither": {"use_timestamp": False},
    "given": {"tag": "mug", "timestamp": "@20230101-000000", "exp_root_dir": "elsewhere"},
}
TRIALS = ("mug@20230102-000000", "mug@20230301-000000", "mug_b@20240101-000000", "cup")
LAST_PATHS = (
    "trials/mug@LAST/ckpts/last.ckpt",
    "trials/mug_b@LAST/ckpts/last.ckpt",
    "trials/mug b@LAST/ckpts/last.ckpt",
    "trials/cup/ckpts/last.ckpt",
    "trials/none@LAST/ckpts/last.ckpt",
    "trials/mug@LAST/ckpts/absent.ckpt",
)


def trials(host: Host, scratch: Path) -> dict[str, Any]:
    """Folders that configs name, and which trial ``LAST`` is; ``scratch`` is the current folder."""
    for trial in TRIALS:
        (scratch / "trials" / trial / "ckpts").mkdir(parents=True)
        (scratch / "trials" / trial / "ckpts" / "last.ckpt").touch()
    return {
        "folders": {n: outcome(lambda c=cfg: _folders(host, c)) for n, cfg in EXPERIMENTS.items()},
        "last": {path: outcome(lambda p=path: host.find_last_path(p)) for path in LAST_PATHS},
        "merged": _merged(host, scratch),
    }


def _folders(host: Host, cfg: dict[str, Any]) -> dict[str, str]:
    parsed = host.load_config(OmegaConf.to_yaml(OmegaConf.create(cfg)), from_string=True)
    keys = ("name", "tag", "timestamp", "exp_dir", "trial_name", "trial_dir")
    now = re.compile(r"@(?!2023)\d{8}-\d{6}")
    return {key: now.sub("@NOW", getattr(parsed, key)) for key in keys}


def _merged(host: Host, scratch: Path) -> dict[str, Any]:
    """Later files and the command line win; interpolations see the result."""
    (scratch / "a.yaml").write_text(
        "tag: a\nseed: 1\ndata: {x: 1, y: '${data.x}'}\nsystem: {s: a}\n"
    )
    (scratch / "b.yaml").write_text("seed: 2\ndata: {x: 3}\nsystem: {t: '${rmspace:${tag},_}'}\n")
    files = [str(scratch / name) for name in ("a.yaml", "b.yaml")]
    command_line = ["tag=c d", "data.z=[1,2]", "data.w=1e-3", "system.s=null", "system.n=true"]
    cfg = host.load_config(*files, cli_args=command_line, n_gpus=1)
    return {key: OmegaConf.to_container(cfg)[key] for key in ("tag", "seed", "data", "system")}
