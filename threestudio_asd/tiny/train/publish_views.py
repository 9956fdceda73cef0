"""Put a trained teacher of several views into the package, with its measurements and its card."""

import json
import shutil
from pathlib import Path

import torch
from PIL import Image

from threestudio_asd.pretrained.files import content_hash
from threestudio_asd.pretrained.resolve import STABLE_DIFFUSION
from threestudio_asd.stop import held
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny import model_folder, next_edition
from threestudio_asd.tiny.captions import caption
from threestudio_asd.tiny.render import camera_to_world, distance_for
from threestudio_asd.tiny.scenes import COLORS, OBJECTS
from threestudio_asd.tiny.train.measure_views import sample_views
from threestudio_asd.tiny.train.publish import forget_places, noted, training_line

CARD = """---
license: apache-2.0
tags: [text-to-image, multi-view, diffusers, synthetic]
---
# tiny-shapes-mv

[tiny-shapes]({base}) fine-tuned to sample {views} views of a scene at once, at azimuths of equal
distance, from their camera-to-world matrices (positions scaled to unit length), as MVDream does it
(arXiv:2308.16512). An ordinary diffusers folder; `unet/views.json` says how many views its
self-attention runs over. Words are those of tiny-shapes; words for views say nothing here.

- Trained with `python -m threestudio_asd.tiny.train multiview`: {training}.
- {samples:,} views sampled in 25 DDIM steps at scale 4: the judge names {judge:.1%} right; the
  Frechet distance to true renders at the same cameras is {fid} (tiny-shapes, picture by picture:
  {fid_single}).
- The true picture at the asked azimuth is at least as near to the sample (root mean square) as
  those at the seven others in {obeyed:.1%} of {count} views of objects that are not round
  ({by_object}).

![Scale 4, azimuths 0, 90, 180, 270, elevation 20: one object a row](samples.png)
"""


def view_grid(teacher: StableDiffusionTeacher, seed: int = 0) -> Image.Image:
    """Every object (rows) from the teacher's views (columns), scale 4."""
    views, shades = teacher.views_at_once, list(COLORS)
    prompts = [
        caption(name, shades[i % len(shades)], None, False) for i, name in enumerate(OBJECTS)
    ]
    azimuth = torch.arange(views) * 360.0 / views
    full = torch.ones_like(azimuth)
    c2w = camera_to_world(azimuth, 20 * full, distance_for(45 * full, 1.05 * full))
    images = sample_views(teacher, prompts, c2w.expand(len(prompts), views, 4, 4), seed=seed)
    grid = torch.cat(list(torch.cat(list(images.transpose(0, 1)), dim=-1)), dim=-2)
    return Image.fromarray((grid.permute(1, 2, 0).numpy() * 255).round().astype("uint8"))


def main(work: Path, out: Path, seed: int = 0, device: str = "cpu") -> None:
    """Put the teacher of ``work`` into ``out`` as its next edition; ``seed`` of the sample grid.

    Raises:
        UserError: It is not trained or not measured yet.
    """
    training = noted(work, "multiview", "multiview.json")
    measures = noted(work, "measure_views", "views.json")
    source = work / "tiny-shapes-mv"
    forget_places(source)
    teacher = StableDiffusionTeacher.from_pretrained(source, device=device)
    folder = out / f"tiny-shapes-mv-{content_hash(source, STABLE_DIFFUSION)[:8]}"
    fids = {key: measures[key] for key in ("fid", "fid_of_single_views")}
    told = {key: "unknown" if x is None else f"{x:.2f}" for key, x in fids.items()}
    card = CARD.format(
        base=f"../{Path(model_folder('tiny-shapes')).name}",
        views=teacher.views_at_once,
        training=training_line("multiview", training),
        samples=measures["samples"],
        judge=measures["judge"],
        fid=told["fid"],
        fid_single=told["fid_of_single_views"],
        obeyed=measures["obeyed"],
        count=measures["views"],
        by_object=", ".join(f"{name} {x:.0%}" for name, x in measures["by_object"].items()),
    )
    report = {
        "edition": next_edition(out, folder),
        "training": {"multiview": training},
        "measures": measures,
    }
    samples = view_grid(teacher, seed)
    with held():  # a folder is whole or not there
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        samples.save(folder / "samples.png")
        (folder / "README.md").write_text(card)
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"published to {folder}")
