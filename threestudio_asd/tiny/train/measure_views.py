"""Does a multi-view teacher obey its camera? Samples against the truth at the asked azimuths."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from jaxtyping import Bool, Float
from torch import Tensor

from threestudio_asd.distill.guidance import classifier_free_guidance
from threestudio_asd.files import written_whole
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny.captions import caption
from threestudio_asd.tiny.dataset import scene_cameras
from threestudio_asd.tiny.evaluation import iou
from threestudio_asd.tiny.judge import load_judge
from threestudio_asd.tiny.render import camera_to_world, render
from threestudio_asd.tiny.scenes import training_pairs

#: What looks the same from all around says nothing of the camera.
ROUND = ("sphere", "cone", "cylinder", "mushroom", "snowman", "tree", "torus")
TURNS = 8  # azimuths at equal distances, the asked one among them
DDIM_STEPS = 25
#: How far a pixel's colour is from the background's to be a thing, in [0, 1].
_UNLIKE = 0.1


@torch.no_grad()
def sample_views(
    teacher: StableDiffusionTeacher,
    prompts: Sequence[str],
    c2w: Float[Tensor, "S V 4 4"],
    scale: float = 4.0,
    seed: int = 0,
) -> Float[Tensor, "S V 3 64 64"]:
    """Views in [0, 1] of one scene for each prompt; 25 steps of DDIM."""
    scheduler = DDIMScheduler.from_pretrained(
        teacher.folder, subfolder="scheduler", prediction_type="epsilon"
    )
    scheduler.set_timesteps(DDIM_STEPS)
    count, views = c2w.shape[:2]
    tokens = teacher.embed_text([*prompts, ""]).tokens
    camera = c2w.flatten(0, 1)
    cond, null = (
        Condition(rows.repeat_interleave(views, 0), camera=camera)
        for rows in (tokens[:-1], tokens[-1:].expand(count, -1, -1))
    )
    both = Condition.concatenate([null, cond])
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(count * views, *teacher.latent_shape, generator=generator)
    for t in scheduler.timesteps:
        said = teacher.epsilon(x_t.repeat(2, 1, 1, 1), t.expand(2 * len(x_t)), both)
        guided = classifier_free_guidance(*said.chunk(2), scale)
        x_t = scheduler.step(guided, t, x_t).prev_sample
    return teacher.decode(x_t).unflatten(0, (count, views))


def silhouettes(images: Float[Tensor, "N 3 H W"]) -> Bool[Tensor, "N H W"]:
    """What is unlike the background, of which the border's median tells."""
    border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], -1)
    background = border.median(dim=-1).values[..., None, None]
    return (images - background).abs().amax(dim=1) > _UNLIKE


def obeyed(
    images: Float[Tensor, "N 3 64 64"], name: str, cameras: dict[str, Tensor]
) -> Bool[Tensor, " N"]:
    """Whether the true silhouette at the asked azimuth is as near to the sample's as those at the
    seven others, of object ``name``; symmetric objects have equal ones.

    Args:
        cameras: ``azimuth``, ``elevation``, ``distance``, ``fovy`` (degrees) of each image.
    """
    masks, found = silhouettes(images), []
    for turn in range(TURNS):
        turned = {**cameras, "azimuth": cameras["azimuth"] + turn * 360.0 / TURNS}
        grey = torch.full((len(images), 3), 0.5)
        _, coverage = render(name, "red", **turned, background=grey)
        found.append(iou(masks, coverage[:, 0] > 0.5))
    asked, *others = found
    return asked >= torch.stack(others).amax(dim=0) - 1e-3


def measure(teacher: StableDiffusionTeacher, count: int = 100, seed: int = 5) -> dict:
    """Of ``count`` scenes of objects that are not round: ``obeyed``, the share of their views that
    obey the camera, ``by_object``, and ``judge``, the share that the judge names right."""
    pairs = [pair for pair in training_pairs() if pair[0] not in ROUND]
    wanted = [pairs[(i * 37) % len(pairs)] for i in range(count)]
    views = teacher.views_at_once
    cameras = scene_cameras(count, views, torch.Generator().manual_seed(seed))
    c2w = camera_to_world(*(cameras[key] for key in ("azimuth", "elevation", "distance")))
    c2w = c2w.unflatten(0, (count, views))
    prompts = [caption(o, c, None, False) for o, c in wanted]
    images, judge = [], load_judge()
    for ids in torch.arange(count).split(12):
        images.append(sample_views(teacher, [prompts[i] for i in ids], c2w[ids], seed=int(ids[0])))
    images = torch.cat(images)
    keys = ("azimuth", "elevation", "distance", "fovy")
    by_object: dict[str, list[bool]] = {}
    named = judge.name(images.flatten(0, 1))
    right = [n == wanted[i // views] for i, n in enumerate(named)]
    for i, (name, _) in enumerate(wanted):
        own = {key: cameras[key][i * views : (i + 1) * views] for key in keys}
        by_object.setdefault(name, []).extend(obeyed(images[i], name, own).tolist())
    every = [flag for flags in by_object.values() for flag in flags]
    return {
        "views": len(every),
        "obeyed": sum(every) / len(every),
        "by_object": {name: sum(flags) / len(flags) for name, flags in by_object.items()},
        "judge": sum(right) / len(right),
    }


def main(work: Path, out: Path, steps: int = 100, device: str = "cpu") -> None:
    """Measure the model in ``out`` on ``steps`` scenes, write ``work/views.json``."""
    began = time.time()
    measures = measure(StableDiffusionTeacher.from_pretrained(out, device=device), steps)
    with written_whole(work / "views.json") as partial:
        partial.write_text(json.dumps(measures, indent=1) + "\n")
    print(f"{measures}\nmeasured in {time.time() - began:.0f}s", flush=True)
