"""One cell's optimisation, in this process."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import trimesh
from torch import Tensor

from threestudio_asd.compare.measure.outcome import Outcome
from threestudio_asd.compare.measure.views import render_fixed_views, render_turntable
from threestudio_asd.compare.run import machine
from threestudio_asd.errors import UserError
from threestudio_asd.scene.formats import to_trimesh
from threestudio_asd.studio.models.exporter.mesh_exporter import color_vertices
from threestudio_asd.studio.registry import find
from threestudio_asd.studio.run.execute import assemble
from threestudio_asd.studio.run.trainer import clear_errors
from threestudio_asd.tiny.render import EVAL_SIZE

PATIENCE = 10  # steps in a row that are not finite


def look(system: Any) -> tuple[Tensor, Tensor | None]:
    """Pictures (N, 3, 64, 64) of the system's present state, and opacity of 3D ones."""
    system.on_validation_model_eval()
    try:
        if hasattr(system, "renderer"):
            return render_fixed_views(system)
        images = system.images().permute(0, 3, 1, 2).float().cpu().clamp(0, 1)
        if images.shape[-1] != EVAL_SIZE:
            images = F.interpolate(images, (EVAL_SIZE,) * 2, mode="area")
        return images, None
    finally:
        system.on_validation_model_train()


@torch.no_grad()
def surface(system: Any) -> trimesh.Trimesh:
    """The scene's mesh; without faces where the density has no surface."""
    try:
        mesh = system.geometry.isosurface()
    except UserError:
        return trimesh.Trimesh()
    color_vertices(mesh, system.geometry, system.material)
    return to_trimesh(mesh)


def weights_of(system: Any) -> dict[str, Any]:
    """A checkpoint for ``system.weights``, without the guidance."""
    state = {k: v.cpu() for k, v in system.state_dict().items() if not k.startswith("guidance.")}
    return {
        "state_dict": state,
        "epoch": system.true_current_epoch,
        "global_step": system.true_global_step,
    }


@dataclass(eq=False)
class _Watch(pl.Callback):
    """Looks at the system halfway and at the end (Lightning then takes it off its device)."""

    half: int
    on_step: Callable[[int], None]
    halfway: Tensor | None = None
    final: tuple[Tensor, Tensor | None] | None = None
    mesh: trimesh.Trimesh | None = None
    turntable: Tensor | None = None
    weights: dict[str, Any] = field(default_factory=dict)
    critic_error: float | None = None
    evaluated: Counter = field(default_factory=Counter)
    """What the teacher's UNet was asked from the first step to the last."""
    seconds: float = 0.0
    _so_far: Counter = field(default_factory=Counter)
    _began: float = 0.0

    def on_train_start(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        net = getattr(getattr(system.guidance, "teacher", None), "net", None)
        self._so_far = getattr(net, "evaluated", Counter())
        self.evaluated = Counter(self._so_far)
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, system: pl.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        self.on_step(trainer.global_step)
        if trainer.global_step == self.half and self.halfway is None:
            paused = time.perf_counter()
            self.halfway = look(system)[0]
            self._began += time.perf_counter() - paused
        if system.nonfinite_steps >= PATIENCE:
            trainer.should_stop = True
        if trainer.should_stop or trainer.global_step >= trainer.max_steps:
            found = trainer.callback_metrics
            error = found.get("train/critic_denoise", found.get("train/loss_lora"))
            self.critic_error = None if error is None else float(error)

    def on_train_end(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        self.seconds = time.perf_counter() - self._began
        self.evaluated = self._so_far - self.evaluated
        self.final, self.weights = look(system), weights_of(system)
        if hasattr(system, "geometry"):
            self.mesh, self.turntable = surface(system), render_turntable(system)


def train(cfg: Any, folder: Path, on_step: Callable[[int], None] = lambda step: None) -> Outcome:
    """Optimise the experiment ``cfg``; ``on_step`` hears the number of finished steps.

    The same config gives the same result in every process, whatever ran before it.
    """
    # Reading a text encoder draws random numbers, finding its embeddings in the cache does not.
    find(cfg.system.prompt_processor_type)(cfg.system.prompt_processor)
    data = find(cfg.data_type)(cfg.data)
    steps = int(cfg.trainer.max_steps)
    watch = _Watch(half=steps // 2, on_step=on_step)
    options = {"max_steps": steps, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    options |= {"precision": cfg.trainer.get("precision", 32), "default_root_dir": str(folder)}
    machine.forget_peak_memory()
    trainer, system = assemble(cfg, data, folder, options, [watch], [])
    with clear_errors():
        trainer.fit(system, datamodule=data)
    if watch.final is None:
        raise UserError("compare: a training ended before its first step.")
    items = trainer.global_step * int(cfg.data.batch_size)
    rows, with_gradient = (watch.evaluated[name] for name in ("rows", "with_gradient"))
    images, opacity = watch.final
    return Outcome(
        images=images,
        halfway=images if watch.halfway is None else watch.halfway,
        opacity=opacity,
        mesh=watch.mesh,
        turntable=watch.turntable,
        weights=watch.weights,
        seconds=watch.seconds,
        unet_evaluations=rows / items if rows else None,
        unet_evaluations_in_all=rows or None,
        unet_evaluations_with_gradient=with_gradient if rows else None,
        peak_memory_mb=machine.peak_memory_mb(),
        nonfinite_steps=system.nonfinite_total,
        critic_error=watch.critic_error,
    )
