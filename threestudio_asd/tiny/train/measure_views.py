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
from threestudio_asd.tiny import model_folder
from threestudio_asd.tiny.captions import VIEWS, caption
from threestudio_asd.tiny.dataset import COLOR_NAMES, OBJECT_NAMES, Scenes, build_scenes
from threestudio_asd.tiny.evaluation import iou
from threestudio_asd.tiny.frechet import fid
from threestudio_asd.tiny.judge import load_judge
from threestudio_asd.tiny.render import render
from threestudio_asd.tiny.scenes import training_pairs
from threestudio_asd.tiny.train.measure import features

#: What looks the same from all around says nothing of the camera.
ROUND = ("sphere", "cone", "cylinder", "mushroom", "snowman", "tree", "torus")
TURNS = 8  # azimuths at equal distances, the asked one among them
#: A camera's matrix does not tell how large things are in its picture: factors of the distance.
NEARER = (0.8, 0.87, 0.94, 1.0, 1.07, 1.15, 1.25)
DDIM_STEPS = 25
BATCH = 48
#: How far a pixel's colour is from the background's to be a thing, in [0, 1].
_UNLIKE = 0.1


@torch.no_grad()
def sample_views(
    teacher: StableDiffusionTeacher,
    prompts: Sequence[str],
    c2w: Float[Tensor, "S V 4 4"] | None,
    scale: float = 4.0,
    seed: int = 0,
) -> Float[Tensor, "S V 3 64 64"]:
    """Views in [0, 1] of one scene for each prompt, or one picture for each where there are no
    cameras; 25 steps of DDIM."""
    scheduler = DDIMScheduler.from_pretrained(
        teacher.folder, subfolder="scheduler", prediction_type="epsilon"
    )
    scheduler.set_timesteps(DDIM_STEPS)
    count, views = (len(prompts), 1) if c2w is None else c2w.shape[:2]
    tokens = teacher.embed_text([*prompts, ""]).tokens
    camera = None if c2w is None else c2w.flatten(0, 1)
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
    seven others, of object ``name``, each at the distance where it is nearest; symmetric objects
    have equal ones.

    Args:
        cameras: ``azimuth``, ``elevation``, ``distance``, ``fovy`` (degrees) of each image.
    """
    masks, found = silhouettes(images), []
    grey = torch.full((len(images), 3), 0.5)
    for turn in range(TURNS):
        azimuth = cameras["azimuth"] + turn * 360.0 / TURNS
        overlap = []
        for factor in NEARER:
            seen = {**cameras, "azimuth": azimuth, "distance": cameras["distance"] * factor}
            _, coverage = render(name, "red", **seen, background=grey)
            overlap.append(iou(masks, coverage[:, 0] > 0.5))
        found.append(torch.stack(overlap).amax(dim=0))
    asked, *others = found
    return asked >= torch.stack(others).amax(dim=0) - 1e-3


@torch.no_grad()
def _compared(
    teacher: StableDiffusionTeacher,
    alone: StableDiffusionTeacher,
    scenes: Scenes,
    prompts: Sequence[str],
    images: Float[Tensor, "S V 3 64 64"],
) -> dict[str, float | None]:
    """Frechet distances to the true renders at the same cameras: of ``images``, and of those that
    ``alone``, a teacher of single views, makes of the same captions with the words for their view.
    """
    judge, views = load_judge(), scenes.images.shape[1]
    true = features(judge, scenes.images.flatten(0, 1).float() / 255)
    words = [
        f"{prompts[i // views]}, {VIEWS[v]} view" for i, v in enumerate(scenes.views.flatten())
    ]
    single = [
        sample_views(alone, words[i : i + BATCH], None, seed=i) for i in range(0, len(words), BATCH)
    ]
    return {
        "fid": fid(true, features(judge, images.flatten(0, 1))),
        "fid_of_single_views": fid(true, features(judge, torch.cat(single).flatten(0, 1))),
    }


def measure(
    teacher: StableDiffusionTeacher, alone: StableDiffusionTeacher, count: int = 256, seed: int = 5
) -> dict:
    """Of ``count`` sampled scenes, as JSON: ``samples``, their views, and ``judge``, the share of
    them that the judge names right; ``obeyed``, the share of the views of objects that are not
    round that obey the camera, ``by_object`` and of how many ``views``; and :func:`_compared`.

    Args:
        alone: The teacher of single views that ``teacher`` was made from.
    """
    views = teacher.views_at_once
    scenes = build_scenes(count, views, seed, training_pairs(), 0.0)
    wanted = [
        (OBJECT_NAMES[o], COLOR_NAMES[c])
        for o, c in zip(scenes.objects.tolist(), scenes.colors.tolist(), strict=True)
    ]
    prompts = [caption(*pair, None, False) for pair in wanted]
    step = BATCH // views
    images = torch.cat(
        [
            sample_views(teacher, prompts[i : i + step], scenes.c2w[i : i + step], seed=i)
            for i in range(0, count, step)
        ]
    )
    named = load_judge().name(images.flatten(0, 1))
    right = [n == wanted[i // views] for i, n in enumerate(named)]
    by_object: dict[str, list[bool]] = {}
    for i, (name, _) in enumerate(wanted):
        if name not in ROUND:
            flags = obeyed(images[i], name, {k: v[i] for k, v in scenes.cameras.items()})
            by_object.setdefault(name, []).extend(flags.tolist())
    every = [flag for flags in by_object.values() for flag in flags]
    return {
        "samples": len(named),
        "judge": sum(right) / len(right),
        "views": len(every),
        "obeyed": sum(every) / max(1, len(every)),
        "by_object": {name: sum(flags) / len(flags) for name, flags in by_object.items()},
        **_compared(teacher, alone, scenes, prompts, images),
    }


def main(work: Path, out: Path, steps: int = 256, device: str = "cpu") -> None:
    """Measure the model in ``out`` on ``steps`` scenes, write ``work/views.json``."""
    began = time.time()
    teacher, alone = (
        StableDiffusionTeacher.from_pretrained(folder, device=device)
        for folder in (out, model_folder("tiny-shapes"))
    )
    measures = measure(teacher, alone, steps)
    with written_whole(work / "views.json") as partial:
        partial.write_text(json.dumps(measures, indent=1) + "\n")
    print(f"{measures}\nmeasured in {time.time() - began:.0f}s", flush=True)
