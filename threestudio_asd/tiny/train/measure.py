"""How good the model's samples are: judge and Frechet distance, held-out pairs apart."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.files import written_whole
from threestudio_asd.tiny.captions import VIEWS, caption
from threestudio_asd.tiny.dataset import COLOR_NAMES, OBJECT_NAMES, Renders, build
from threestudio_asd.tiny.frechet import fid
from threestudio_asd.tiny.judge import Judge, load_judge
from threestudio_asd.tiny.scenes import HELD_OUT, training_pairs

SCALES = (1.0, 1.5, 4.0)
SAMPLES = 4096
RENDER_SEED = 1234  # none of the renders that the model was trained on
DDIM_STEPS = 25


def captions_of(renders: Renders) -> list[str]:
    """The plain caption of each render, with its view."""
    labels = zip(
        renders.objects.tolist(), renders.colors.tolist(), renders.views.tolist(), strict=True
    )
    return [caption(OBJECT_NAMES[o], COLOR_NAMES[c], VIEWS[v], False) for o, c, v in labels]


@torch.no_grad()
def sample(
    pipe: StableDiffusionPipeline, captions: Sequence[str], scale: float, seed: int, batch: int
) -> Float[Tensor, "N 3 64 64"]:
    """One image in [0, 1] for each caption; 25 steps of DDIM."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for start in range(0, len(captions), batch):
        drawn = pipe(
            list(captions[start : start + batch]),
            num_inference_steps=DDIM_STEPS,
            guidance_scale=scale,
            generator=generator,
            output_type="pt",
        ).images
        images.append(drawn.float().cpu())
    return torch.cat(images)


def sample_accuracy(
    pipe: StableDiffusionPipeline,
    count: int,
    seed: int,
    batch: int = 48,
    pairs: Sequence[tuple[str, str]] = (),
) -> float:
    """Share of ``count`` samples (scale 4) whose object and colour the judge names.

    Captions cycle over ``pairs``, by default those of training, and the views.
    """
    pairs = pairs or training_pairs()
    # A stride coprime to the number of pairs visits them all in a mixed order.
    wanted = [pairs[(i * 37) % len(pairs)] for i in range(count)]
    captions = [caption(o, c, VIEWS[i % 4], False) for i, (o, c) in enumerate(wanted)]
    named = load_judge().name(sample(pipe, captions, 4.0, seed, batch))
    return sum(n == w for n, w in zip(named, wanted, strict=True)) / count


@torch.no_grad()
def features(judge: Judge, images: Float[Tensor, "N 3 64 64"]) -> Float[Tensor, "N 96"]:
    return torch.cat([judge.features(chunk) for chunk in images.split(256)])


def _measured(
    pipe: StableDiffusionPipeline,
    pairs: list[tuple[str, str]],
    count: int,
    seed: int,
    batch: int,
) -> dict:
    device, judge = pipe.device, load_judge()
    truth = build(count, RENDER_SEED, pairs, 0.0, device=device)
    other = build(count, RENDER_SEED + 1, pairs, 0.0, device=device)
    true_features = features(judge, truth.images.float() / 255)
    floor = fid(true_features, features(judge, other.images.float() / 255))
    with torch.no_grad():
        decoded = [
            pipe.vae.decode(
                pipe.vae.encode(x.to(device).float() / 127.5 - 1).latent_dist.mean
            ).sample.cpu()
            for x in truth.images.split(128)
        ]
    decoded = (torch.cat(decoded) / 2 + 0.5).clamp(0, 1)
    found = {
        "samples": count,
        "fid_of_renders": floor,
        "fid_of_autoencoder": fid(true_features, features(judge, decoded)),
        "scales": {},
    }
    wanted = [
        (OBJECT_NAMES[o], COLOR_NAMES[c])
        for o, c in zip(truth.objects.tolist(), truth.colors.tolist(), strict=True)
    ]
    for scale in SCALES:
        images = sample(pipe, captions_of(truth), scale, seed, batch)
        named = judge.name(images)
        found["scales"][f"{scale:g}"] = {
            "fid": fid(true_features, features(judge, images)),
            "judge": sum(n == w for n, w in zip(named, wanted, strict=True)) / count,
        }
    return found


def measure(
    pipe: StableDiffusionPipeline, count: int = SAMPLES, seed: int = 3, batch: int = 64
) -> dict:
    """Frechet distances in the judge's features and the judge's verdicts, as JSON.

    For training pairs and for :data:`HELD_OUT`: ``samples`` (that many images and renders each),
    ``fid_of_renders`` (of other true renders: the floor), ``fid_of_autoencoder`` (of the renders
    encoded and decoded), and for each guidance scale ``fid`` and ``judge`` (the share of samples
    of which it names object and colour right). Captions name the renders' own views.
    """
    return {
        "training_pairs": _measured(pipe, training_pairs(), count, seed, batch),
        "held_out_pairs": _measured(pipe, list(HELD_OUT), count, seed, batch),
    }


def main(work: Path, out: Path, steps: int = SAMPLES, device: str = "cpu") -> None:
    """Measure the model in ``out``, write ``work/measures.json``; ``steps`` samples."""
    pipe = StableDiffusionPipeline.from_pretrained(out, safety_checker=None).to(device)
    pipe.set_progress_bar_config(disable=True)
    began = time.time()
    measures = measure(pipe, steps, batch=64 if device == "cpu" else 512)
    with written_whole(work / "measures.json") as partial:
        partial.write_text(json.dumps(measures, indent=1) + "\n")
    for pairs, found in measures.items():
        print(f"{pairs}: {found}")
    print(f"measured in {time.time() - began:.0f}s", flush=True)
