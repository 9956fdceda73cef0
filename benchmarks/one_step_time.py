"""What a step of a one-step training costs, with replayed passes and fused Adam and without.

    OMP_NUM_THREADS=1 python benchmarks/one_step_time.py [--method sida] [--steps 4] [--rounds 2]

Short trainings of the embedded teacher on noise, in turns; both sides draw the same numbers. Prints
CPU seconds of a step (the least of each side: other programs only add), their ratio and how far the
losses are apart; --save NAME writes benchmarks/results/one-step-time-NAME.json.
"""

import argparse
import copy
import dataclasses
import time
from pathlib import Path

import pytorch_lightning as pl
import report
import torch
from torch import Tensor

from threestudio_asd import homes, log
from threestudio_asd.distill.one_step import ONE_STEP_METHODS
from threestudio_asd.generators.data.captions import Captions, world_captions
from threestudio_asd.generators.train import train
from threestudio_asd.generators.training import OneStepTraining
from threestudio_asd.parallel import set_pieces
from threestudio_asd.studio.device import get_device, prepare_cpu
from threestudio_asd.teachers import recorded
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.one_step import OneStepGenerator
from threestudio_asd.tiny import model_folder

WARM_UP = recorded.AFTER + 1
NEVER = 10**9


class Clock(pl.Callback):
    """CPU seconds and losses of each step; ``fused=False`` has Adam go through the weights one by
    one."""

    def __init__(self, fused: bool) -> None:
        self.fused, self.ends, self.losses = fused, [], []

    def on_train_start(self, trainer: pl.Trainer, training: OneStepTraining) -> None:
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["fused"] = self.fused

    def on_train_batch_end(
        self, trainer: pl.Trainer, training: OneStepTraining, *args: object
    ) -> None:
        self.ends.append(time.process_time())
        self.losses.append(training.losses)


@dataclasses.dataclass
class Noise:
    """Stands in for real pictures."""

    captions: Captions
    shape: tuple[int, int, int]

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        latents = torch.randn(count, *self.shape, generator=generator)
        return latents, self.captions.draw(count, generator)


def timed(
    teacher: StableDiffusionTeacher, method: str, steps: int, fast: bool
) -> tuple[float, list[dict[str, float]]]:
    """The least CPU seconds of ``steps`` steps, and all losses."""
    recorded.AFTER = WARM_UP - 1 if fast else NEVER
    row = ONE_STEP_METHODS.get(method)
    settings = row.with_settings({"generator_from": 0, "adversarial_from": 0}, "the benchmark")
    begun = OneStepGenerator.of(teacher.net, settings.init_timestep)
    captions = world_captions(teacher)
    training = OneStepTraining(
        *(dataclasses.replace(begun, unet=copy.deepcopy(begun.unet)), teacher.net, row, settings),
        captions=captions,
        null=teacher.embed_text([""]).tokens[0],
        reals=Noise(captions, teacher.latent_shape) if row.needs_reals else None,
    )
    clock = Clock(fast)
    with homes.scratch() as folder:
        # One more, which also saves.
        train(training, Path(folder), WARM_UP + steps + 1, NEVER, [clock])
    spent = [b - a for a, b in zip(clock.ends[:-2], clock.ends[1:-1], strict=True)]
    return min(spent[WARM_UP - 1 :]), clock.losses


def apart(first: list[dict[str, float]], second: list[dict[str, float]]) -> float:
    """The largest relative difference of two trainings' losses."""
    pairs = [(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in a]
    return max(abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="sida", choices=list(ONE_STEP_METHODS))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--save", metavar="NAME")
    args = parser.parse_args()
    log.setup_logging(False)
    prepare_cpu()
    set_pieces(2)
    described = report.describe(get_device())
    teacher = StableDiffusionTeacher.from_pretrained(
        model_folder("tiny-shapes"), device=get_device()
    )
    seconds, losses = {"plain": [], "replayed": []}, {}
    for _ in range(args.rounds):
        for side in seconds:
            spent, losses[side] = timed(teacher, args.method, args.steps, side == "replayed")
            seconds[side].append(round(spent, 4))
            print(side, seconds[side][-1], flush=True)
    best = {side: min(values) for side, values in seconds.items()}
    found = {
        "method": args.method,
        "seconds": seconds,
        "ratio": round(best["plain"] / best["replayed"], 3),
        "losses_apart": apart(*losses.values()),
    }
    print(found)
    if args.save:
        print(report.write(f"one-step-time-{args.save}", {**described, **found}))


if __name__ == "__main__":
    main()
