"""Put a trained tiny-shapes model into the package, with its measurements and its model card."""

import json
import shutil
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline
from PIL import Image

from threestudio_asd.errors import UserError
from threestudio_asd.files import written_whole
from threestudio_asd.pretrained.files import content_hash
from threestudio_asd.pretrained.resolve import STABLE_DIFFUSION
from threestudio_asd.stop import held
from threestudio_asd.tiny import next_edition
from threestudio_asd.tiny.captions import caption
from threestudio_asd.tiny.pictures import scenes_grid
from threestudio_asd.tiny.scenes import COLORS, HELD_OUT, OBJECTS
from threestudio_asd.tiny.train.measure import sample

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
- Trained with `python -m threestudio_asd.tiny.train`: {training}.
- {samples:,} samples of 25 DDIM steps against as many true renders, Frechet distance in the judge's
  features (FID) and the share whose object and colour the judge names:

{table}

![25 DDIM steps at scale 4: objects by row, colours by column](samples.png)
"""


def sample_grid(pipe: StableDiffusionPipeline, seed: int = 0) -> Image.Image:
    """Every object (rows) in every colour (columns), front view, scale 4."""
    found = {}
    for name in OBJECTS:
        captions = [caption(name, shade, "front", False) for shade in COLORS]
        images = sample(pipe, captions, 4.0, seed, len(captions))
        found |= {(name, shade): image for shade, image in zip(COLORS, images, strict=True)}
    return scenes_grid(found)


def training_line(stage: str, facts: dict[str, Any]) -> str:
    """A trained part, as the card says it; ``start_from``, where noted, is what was trained on."""
    origin = f", from {facts['start_from']} on" if "start_from" in facts else ""
    return (
        f"{stage} {facts['steps']:,} steps of {facts['batch']} of {facts['renders']:,} renders"
        f"{origin} (learning rate {facts['lr']:g}, seed {facts['seed']},"
        f" {facts['seconds'] / 60:.0f} min on {facts['hardware']})"
    )


def measures_table(measures: dict[str, Any]) -> str:
    """Markdown: a row for each set of pairs and scale; :func:`.measure.measure` says what."""

    def number(fid: float | None) -> str:
        return "too few samples" if fid is None else f"{fid:.2f}"

    rows = ["| pairs | scale | FID | judge |", "|---|---|---|---|"]
    for pairs, found in measures.items():
        words = pairs.replace("_", " ")
        rows.append(f"| {words} | true renders | {number(found['fid_of_renders'])} | |")
        rows.append(f"| {words} | autoencoder alone | {number(found['fid_of_autoencoder'])} | |")
        for scale, at in found["scales"].items():
            rows.append(f"| {words} | {scale} | {number(at['fid'])} | {at['judge']:.1%} |")
    return "\n".join(rows)


def forget_places(folder: Path) -> None:
    """Take out of the model's configurations where its parts lay while it was trained: they are
    part of its hash."""
    for file in sorted(folder.glob("*/config.json")):
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None) is not None:
            with written_whole(file) as partial:
                partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def noted(work: Path, stage: str, file: str) -> dict[str, Any]:
    """What ``stage`` left in ``work/file``; UserError if it has not run."""
    path = work / file
    if not path.is_file():
        raise UserError(f"publish: there is no {path}; run the stage '{stage}' first.")
    return json.loads(path.read_text())


def main(work: Path, out: Path, seed: int = 0, device: str = "cpu") -> None:
    """Put the model of ``work`` into ``out`` as the next edition; ``seed`` of the sample grid.

    Raises:
        UserError: It is not trained or not measured yet.
    """
    training = {stage: noted(work, stage, f"{stage}.json") for stage in ("vae", "diffusion")}
    measures = noted(work, "measure", "measures.json")
    source = work / "tiny-shapes"
    forget_places(source)
    pipe = StableDiffusionPipeline.from_pretrained(source, safety_checker=None).to(device)
    pipe.set_progress_bar_config(disable=True)
    folder = out / f"tiny-shapes-{content_hash(source, STABLE_DIFFUSION)[:8]}"
    samples = sample_grid(pipe, seed)
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    known = measures["training_pairs"]
    card = CARD.format(
        parameters=sum(p.numel() for part in parts for p in part.parameters()) / 1e6,
        objects=len(OBJECTS),
        colors=len(COLORS),
        words=" ".join(sorted(pipe.tokenizer.get_vocab())),
        held_out=", ".join(f"{shade} {name}" for name, shade in HELD_OUT),
        training=", then ".join(training_line(*item) for item in training.items()),
        samples=known["samples"],
        table=measures_table(measures),
    )
    report = {
        "edition": next_edition(out, folder),
        "judge_accuracy": known["scales"]["4"]["judge"],
        "training": training,
        "measures": measures,
    }
    with held():  # a folder is whole or not there
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        samples.save(folder / "samples.png")
        (folder / "README.md").write_text(card)
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"published to {folder}")
