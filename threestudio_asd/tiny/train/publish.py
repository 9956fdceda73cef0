"""Put a trained tiny-shapes model into the package, with its measurements and its model card."""

import json
import shutil
import time
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from threestudio_asd.pretrained import STABLE_DIFFUSION, content_hash
from threestudio_asd.stop import held

from .. import edition
from ..captions import caption
from ..scenes import COLORS, HELD_OUT, OBJECTS
from .diffusion import sample_accuracy

CARD = """---
license: apache-2.0
tags: [text-to-image, diffusers, synthetic]
---
# tiny-shapes

A text-to-image latent diffusion model of {parameters:.1f} M parameters for 64 x 64 renders of
{objects} objects in {colors} colours, trained from scratch on renders of signed-distance scenes.
It exists to make score distillation testable on a CPU; it knows nothing else of the world.

    pipe = StableDiffusionPipeline.from_pretrained("<this folder>", safety_checker=None)
    pipe("a red mug, side view", guidance_scale=4.0).images[0]

- Words: `{words}`. Others become `<unk>`.
- Views: "front view" (azimuth 0 is +x), "side view", "back view", "overhead view" (elevation > 60);
  "..., normal map" gives world-space normals as (n + 1) / 2 on black.
- Never seen in training: {held_out}.
- Trained with `python -m threestudio_asd.tiny.train vae` (seed 5) and `... diffusion` (seed 9,
  {steps} steps of 48 images, {hours:.1f} h on one or two CPU cores) on 12,288 renders (seed 11).
- The judge names object and colour of {accuracy:.1%} of 480 samples (25 DDIM steps, scale 4).

![25 DDIM steps at scale 4: objects by row, colours by column](samples.png)
"""


def sample_grid(pipe: StableDiffusionPipeline, seed: int = 0) -> Image.Image:
    """Every object (rows) in every colour (columns), front view, scale 4."""
    rows: list[Tensor] = []
    for name in OBJECTS:
        captions = [caption(name, shade, "front", False) for shade in COLORS]
        generator = torch.Generator().manual_seed(seed)
        images = pipe(captions, 25, guidance_scale=4.0, generator=generator, output_type="pt")
        rows.append(torch.cat(list(images.images.float().cpu()), dim=-1))
    grid = torch.cat(rows, dim=-2).permute(1, 2, 0)
    return Image.fromarray((grid.numpy() * 255).round().astype("uint8"))


def main(work: Path, out: Path, steps: int = 480, seed: int = 3) -> None:
    """``steps`` is the number of samples that the judge is shown."""
    source = work / "tiny-shapes"
    pipe = StableDiffusionPipeline.from_pretrained(source, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    began = time.time()
    accuracy = sample_accuracy(pipe, steps, seed)
    print(f"judge: {accuracy:.4f} of {steps} samples ({time.time() - began:.0f}s)")
    trained = torch.load(work / "diffusion.ckpt", weights_only=True)
    folder = out / f"tiny-shapes-{content_hash(source, STABLE_DIFFUSION)[:8]}"
    samples = sample_grid(pipe)
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    card = CARD.format(
        parameters=sum(p.numel() for part in parts for p in part.parameters()) / 1e6,
        objects=len(OBJECTS),
        colors=len(COLORS),
        words=" ".join(sorted(pipe.tokenizer.get_vocab())),
        held_out=", ".join(f"{shade} {name}" for name, shade in HELD_OUT),
        steps=trained["step"],
        hours=trained["seconds"] / 3600,
        accuracy=accuracy,
    )
    others = [edition(other) for other in out.glob("tiny-shapes-*") if other != folder]
    report = {"edition": 1 + max(others, default=0), "judge_accuracy": accuracy}
    report |= {"samples": steps, "seed": seed, "scale": 4.0}
    with held():  # a folder is whole or not there
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        samples.save(folder / "samples.png")
        (folder / "README.md").write_text(card)
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"published to {folder}")
