"""What a step of a method takes besides its evaluations of the UNet, for each row of a grid.

    python benchmarks/evaluations_time.py [--config compare/family] [--steps 60] [--methods A B]

A training of each row runs for a stretch of ``--steps`` steps, over which its schedules are
compressed. After each step what its UNet was asked is asked again, alone: the same network, inputs
and batches, and the backward pass wherever the step has one. Both sides take turns in one process;
times are CPU time of one thread, to which other programs add little. The first ``--warm-up`` steps
do not count. Prints a table and writes benchmarks/results/evaluations-time-<hardware>.json.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
from report import describe, write
from torch import Tensor

from threestudio_asd.compare.grid import Grid, load_grid
from threestudio_asd.compare.rows import STEPS
from threestudio_asd.critics.lora import LoRACritic
from threestudio_asd.studio.registry import find
from threestudio_asd.studio.run.execute import assemble
from threestudio_asd.teachers.unet import FrozenUNet


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a network in a step, and how to make it again."""

    function: Callable[..., Tensor]
    x_t: Tensor
    rest: tuple[Any, ...]
    learns: tuple[Tensor, ...]
    """Trained weights of which the step wants the gradient."""
    with_gradient: bool

    @property
    def rows(self) -> int:
        return len(self.x_t)

    def again(self) -> None:
        """Forward, and back to whatever the step has a gradient for."""
        x_t = self.x_t.detach().requires_grad_(self.x_t.requires_grad and self.with_gradient)
        with torch.set_grad_enabled(self.with_gradient):
            said = self.function(x_t, *self.rest)
        if said.requires_grad:
            wanted = [x for x in (x_t, *self.learns) if x.requires_grad]
            torch.autograd.grad(said.sum(), wanted, allow_unused=True)


@dataclass(eq=False)
class Stretch(pl.Callback):
    """Times steps, and what the UNet was asked in each."""

    warm_up: int
    calls: list[Call] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    rows: list[tuple[int, int]] = field(default_factory=list)
    """Of each step: all, and those with gradient."""
    _since: float = 0.0
    _within: bool = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """In the block calls of networks are noted, a critic's with that of its UNet as one."""
        with (
            mock.patch.object(FrozenUNet, "predict", self._noting(FrozenUNet.predict)),
            mock.patch.object(LoRACritic, "predict", self._noting(LoRACritic.predict)),
        ):
            yield

    def _noting(self, predict: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(network: Any, x_t: Tensor, *rest: Any) -> Tensor:
            if self._within:
                return predict(network, x_t, *rest)
            parameters = network.parameters() if isinstance(network, LoRACritic) else ()
            learns = tuple(p for p in parameters if p.requires_grad)
            asked = (predict.__get__(network), x_t, rest, learns, torch.is_grad_enabled())
            self.calls.append(Call(*asked))
            self._within = True
            try:
                return predict(network, x_t, *rest)
            finally:
                self._within = False

        return noted

    def on_train_start(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        self.calls.clear()
        self._since = time.process_time()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        ended = time.process_time()
        calls, self.calls = self.calls, []
        self._within = True  # what is asked again is no part of a step
        for call in calls:
            call.again()
        self._within = False
        again = time.process_time()
        self.steps.append(ended - self._since)
        self.alone.append(again - ended)
        asked = [(call.rows, call.rows * call.with_gradient) for call in calls]
        self.rows.append(tuple(map(sum, zip(*asked, strict=True))) if asked else (0, 0))
        self._since = time.process_time()

    def summary(self, batch: int) -> dict[str, float]:
        """Means over the steps that count; evaluations are per item."""
        count = len(self.steps) - self.warm_up
        step, alone = (sum(times[self.warm_up :]) for times in (self.steps, self.alone))
        rows, with_gradient = (
            sum(column[self.warm_up :]) for column in zip(*self.rows, strict=True)
        )
        return {
            "step_ms": round(1e3 * step / count, 2),
            "evaluations_alone_ms": round(1e3 * alone / count, 2),
            "ratio": round(step / alone, 3),
            "evaluations": round(rows / count / batch, 2),
            "with_gradient": round(with_gradient / count / batch, 2),
            "steps": count,
        }


def trained(cfg: Any, callbacks: list[pl.Callback]) -> Any:
    """The system of the experiment ``cfg`` after its training."""
    find(cfg.system.prompt_processor_type)(cfg.system.prompt_processor)
    data = find(cfg.data_type)(cfg.data)
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_steps": int(cfg.trainer.max_steps), "limit_val_batches": 0}
        options |= {"num_sanity_val_steps": 0, "precision": 32, "default_root_dir": folder}
        trainer, system = assemble(cfg, data, Path(folder), options, callbacks, [])
        trainer.fit(system, datamodule=data)
    return system


def first_config(grid: Grid, method: str) -> Any:
    """A row's experiment of its first prompt and seed."""
    first = (grid.scales[0], grid.cfg.prompts[0], grid.cfg.seeds[0])
    return grid.config(grid.cell(method, *first))


def measured(cfg: Any, warm_up: int) -> dict[str, float]:
    """What :class:`Stretch` says of the training of ``cfg``."""
    stretch = Stretch(warm_up)
    with stretch.watching():
        trained(cfg, [stretch])
    return stretch.summary(int(cfg.data.batch_size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="compare/family")
    parser.add_argument("--methods", nargs="*", help="rows of the grid; all by default")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warm-up", type=int, default=10)
    args = parser.parse_args()
    if not 0 <= args.warm_up < args.steps:
        parser.error("some steps must be left after --warm-up")
    torch.set_num_threads(1)
    grid = load_grid(args.config, steps=args.steps, methods=args.methods or None)
    report = {**describe(torch.device("cpu")), **vars(args), "rows": {}}
    heads = ("step, ms", "evaluations alone, ms", "ratio", "evaluations", "with gradient")
    print(f"| | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    for method in (name for name, row in grid.rows.items() if STEPS not in row.overrides):
        found = report["rows"][method] = measured(first_config(grid, method), args.warm_up)
        figures = " | ".join(str(found[key]) for key in list(found)[: len(heads)])
        print(f"| {method} | {figures} |", flush=True)
    slug = re.sub(r"[^a-z0-9]+", "-", report["hardware"].lower()).strip("-")
    print(f"written to {write(f'evaluations-time-{slug}', report)}")


if __name__ == "__main__":
    main()
