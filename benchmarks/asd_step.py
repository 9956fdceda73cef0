"""The shared ASD step against the official schedule of passes, on one UNet in one run.

    python benchmarks/asd_step.py [--unet tiny|sd] [--device cpu] [--dtype fp32] [--threads 1]

One generator and discriminator step, without renderer, autoencoder and optimiser: all evaluations
of the UNet, losses, and the critic's backward pass. Both sides alternate on the same networks at
the same precision; times are medians: of CPU time on a CPU (other processes do not count), else of
wall time. Writes benchmarks/results/asd-step-<hardware>.json.
"""

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import diffusers
import torch
from report import hardware, write
from torch import Tensor

from threestudio_asd.critics.lora import LoRACritic
from threestudio_asd.distill import ASD, CriticSettings, DiscreteSchedule, NoisyBatch
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.step import DistillationStep
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.plain import PlainTeacher
from threestudio_asd.teachers.unet import DTYPES, FrozenUNet

#: Share of the steps that hide the camera from the critic's training (LoRACritic's default).
DROPOUT = 0.1
SCALE, GAMMA = 7.5, -0.75


def new_unet(kind: str, device: str) -> torch.nn.Module:
    """Random weights, drawn on ``device``: of tiny-shapes' size, Stable Diffusion 2.1's, or the
    least that has all parts, to test a benchmark with."""
    with torch.device(device):
        if kind == "tiny":
            from threestudio_asd.tiny.train.diffusion import new_unet

            return new_unet()
        if kind == "least":
            return diffusers.UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(32, 32),
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                layers_per_block=1,
                cross_attention_dim=32,
                attention_head_dim=8,
            )
        return diffusers.UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        )


def new_cases(unet: str, device: str, dtype: str) -> "dict[str, Case]":
    """``plain`` and ``perp_neg``, on the same networks with random weights."""
    torch.manual_seed(0)
    network = new_unet(unet, device).to(device, DTYPES[dtype])
    net = FrozenUNet(network, DiscreteSchedule.scaled_linear().to(device))
    critic = LoRACritic(net)
    return {name: Case(net, critic, name == "perp_neg") for name in ("plain", "perp_neg")}


class Case:
    """One batch item, networks and both ways to make a step."""

    def __init__(self, net: FrozenUNet, critic: LoRACritic, perp_neg: bool) -> None:
        device = net.device
        width, negatives = net.unet.config.cross_attention_dim, 2 if perp_neg else 0
        self.teacher = PlainTeacher(net.epsilon, net.latent_shape, net.schedule)
        self.critic = critic
        self.step = DistillationStep(ASD, self.teacher, critic, CriticSettings(GAMMA))
        self.latents = torch.randn(1, *net.latent_shape, device=device)
        self.camera = torch.randn(1, 4, 4, device=device)
        cond, null, plain = (Condition(row) for row in torch.randn(3, 1, 77, width, device=device))
        extra = {}
        if perp_neg:
            extra["negatives"] = Condition(torch.randn(negatives, 77, width, device=device))
            extra["negative_weights"] = -torch.ones(1, negatives, device=device)
        text = Conditions({"cond": cond, "null": null}, plain, **extra)
        self.text = text.with_camera(self.camera)

    def draw(self) -> NoisyBatch:
        t = torch.randint(20, 981, (1,), device=self.latents.device)
        noise = torch.randn_like(self.latents)
        return NoisyBatch.of(self.teacher.schedule, self.latents, t, noise)

    def shared(self, hide_camera: bool = False) -> None:
        """Our step: 2 + 1 evaluations; 4 + 1 with perp-neg; one more where the camera hides."""
        self.critic.zero_grad()
        found = self.step.evaluate(
            *(self.latents, self.text, self.draw(), SCALE), hide_camera=hide_camera
        )
        sum(found.critic_terms.values()).backward()

    def hidden(self) -> None:
        self.shared(hide_camera=True)

    def official(self) -> None:
        """The official code's passes, in its batches: 5 + 1 evaluations, 9 + 1 with perp-neg.

        The arithmetic between them, which costs next to nothing, is left out.
        """
        self.critic.zero_grad()
        text, mine, critics = self.text, self.draw(), self.draw()
        told, plain = text.critic, replace(text.critic, camera=torch.zeros_like(self.camera))
        negatives = [] if text.negatives is None else [text.negatives]
        with torch.no_grad():
            self._ask(mine, [text["cond"], text["null"], *negatives])
            both = Condition.concatenate([told, plain])
            self.critic.predict(mine.x_t.repeat(2, 1, 1, 1), mine.t.repeat(2), both)
            target = self._ask(critics, [text["cond"], *negatives])[:1]
        prediction = self.critic.predict(critics.x_t, critics.t, told)
        mse = torch.nn.functional.mse_loss
        (mse(prediction, critics.noise) + GAMMA * mse(prediction, target)).backward()

    def _ask(self, noisy: NoisyBatch, conditions: list[Condition]) -> Tensor:
        told = Condition.concatenate(conditions)
        n = len(told)
        return self.teacher.epsilon(noisy.x_t.repeat(n, 1, 1, 1), noisy.t.repeat(n), told)


Name = tuple[str, str]


def alternate(
    runs: dict[Name, Callable[[], None]], repeats: int, device: str, seconds: float = float("inf")
) -> dict[Name, float]:
    """Median milliseconds of each run; they take turns, after one round of warm-up.

    After ``seconds`` no further round begins, if there were three.
    """
    began = time.perf_counter()
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    times: dict[Name, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        if turn > 3 and time.perf_counter() - began > seconds:
            break
        for name, run in runs.items():
            start = clock()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if turn > 0:
                times[name].append(1e3 * (clock() - start))
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def compare(
    cases: dict[str, Case], repeats: int, device: str, seconds: float = float("inf")
) -> dict[str, dict[str, float]]:
    """The times of each case, and how much faster the shared step is."""
    ways = ("shared", "hidden", "official")
    runs = {(name, way): getattr(case, way) for name, case in cases.items() for way in ways}
    times = alternate(runs, repeats, device, seconds)
    report = {}
    for name in cases:
        shared, hidden, official = (times[name, way] for way in ways)
        average = (1 - DROPOUT) * shared + DROPOUT * hidden
        report[name] = {
            "shared_ms": shared,
            "shared_hidden_camera_ms": hidden,
            "official_schedule_ms": official,
            "ratio": round(official / shared, 3),
            "ratio_with_camera_dropout": round(official / average, 3),
        }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unet", choices=("tiny", "sd"), default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=31)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = {
        "hardware": hardware(args.device),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        **vars(args),
        "batch": 1,
        "clock": "wall" if args.device.startswith("cuda") else "cpu",
    }
    cases = new_cases(args.unet, args.device, args.dtype)
    report |= compare(cases, args.repeats, args.device)
    slug = re.sub(r"[^a-z0-9]+", "-", report["hardware"].lower()).strip("-")
    file = write(f"asd-step-{slug}{'' if args.unet == 'tiny' else '-' + args.unet}", report)
    print(json.dumps(report, indent=2))
    print(f"written to {file}")


if __name__ == "__main__":
    main()
