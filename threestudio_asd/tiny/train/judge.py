"""Train and freeze the judge on renders of its own (every pair, other seeds than the teacher's)."""

import hashlib
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from threestudio_asd.stop import held
from threestudio_asd.tiny.dataset import Renders, cached
from threestudio_asd.tiny.judge import COLOR_NAMES, OBJECT_NAMES, Judge
from threestudio_asd.tiny.render import fixed_views
from threestudio_asd.tiny.scenes import COLORS, OBJECTS
from threestudio_asd.tiny.train.loop import run


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Noise, blur, shifts and brightness: results of distillation are never as clean as renders."""
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)

    coarse = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    images = torch.lerp(images, coarse, (uniform(-0.5, 1.0)).clamp(min=0))
    images = (images - 0.5) * uniform(0.8, 1.25) + 0.5 + uniform(-0.08, 0.08)
    sigma = uniform(-0.05, 0.12).clamp(min=0)
    images = images + sigma * torch.randn(images.shape, generator=generator)
    shift = torch.randint(-4, 5, (2,), generator=generator).tolist()
    return images.roll(shift, dims=(-2, -1)).clamp(0, 1)


def accuracy_report(judge: Judge) -> dict:
    """Confusion matrices over every pair's eight fixed views (768 images, none in training)."""
    objects = torch.zeros(len(OBJECT_NAMES), len(OBJECT_NAMES), dtype=torch.long)
    colors = torch.zeros(len(COLOR_NAMES), len(COLOR_NAMES), dtype=torch.long)
    right = total = 0
    for o, name in enumerate(OBJECT_NAMES):
        for c, shade in enumerate(COLOR_NAMES):
            named = judge.name(fixed_views(name, shade)[0])
            for found_o, found_c in named:
                objects[o, OBJECT_NAMES.index(found_o)] += 1
                colors[c, COLOR_NAMES.index(found_c)] += 1
                right += (found_o, found_c) == (name, shade)
                total += 1
    return {
        "images": total,
        "accuracy": right / total,
        "objects": {"names": OBJECT_NAMES, "confusion": objects.tolist()},
        "colors": {"names": COLOR_NAMES, "confusion": colors.tolist()},
    }


class Judging(nn.Module):
    """The judge with its training loss, so that :func:`loop.run` sees one module."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = Judge()

    def forward(self, images: Tensor, objects: Tensor, colors: Tensor) -> Tensor:
        """Cross entropies of images in [0, 1] with the true indices of object and colour."""
        found_objects, found_colors = self.judge(images)
        return F.cross_entropy(found_objects, objects, label_smoothing=0.02) + F.cross_entropy(
            found_colors, colors, label_smoothing=0.02
        )


def main(work: Path, out: Path, steps: int = 1600, count: int = 9216, seed: int = 77) -> None:
    pairs = [(o, c) for o in OBJECTS for c in COLORS]
    data: Renders = cached(work / "judge-renders.pt", count, seed, pairs, normal_fraction=0.0)
    torch.manual_seed(seed)
    model = Judging()

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        ids = torch.randint(len(data), (96,), generator=generator)
        images = augment(data.images[ids].float() / 255, generator)
        return images, data.objects[ids], data.colors[ids]

    state = run("judge", work, model, draw, steps, lr=2e-3, seed=seed, ema=0.99)
    model.load_state_dict(state)
    judge = model.judge
    judge.eval()
    report = {"seed": seed, "steps": steps, **accuracy_report(judge)}
    out.mkdir(parents=True, exist_ok=True)
    weights = out / "judge.safetensors"
    with held():  # the report names the weights beside it
        save_file({k: v.contiguous() for k, v in judge.state_dict().items()}, weights)
        report = {"sha256": hashlib.sha256(weights.read_bytes()).hexdigest(), **report}
        (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(
        f"judge: {report['accuracy']:.4f} on {report['images']} fixed views,"
        f" sha256 {report['sha256']}"
    )
