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
#: Views of objects that are not round are sampled for this many scenes at most.
TURNED_SCENES = 100
#: How much farther, as a root mean square of pixels in [0, 1], counts as equally near.
_EQUAL = 5e-4


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


def backgrounds(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3"]:
    """The colour behind the object: the border's median."""
    edges = (images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1])
    return torch.cat(edges, dim=-1).median(dim=-1).values


@torch.no_grad()
def obeyed(
    images: Float[Tensor, "N 3 64 64"], name: str, color_name: str, cameras: dict[str, Tensor]
) -> Bool[Tensor, " N"]:
    """Whether the true picture at the asked azimuth is as near to the sample as those at the seven
    others, each at the distance where it is nearest. An object that a turn leaves as it is has
    equal ones: a cube obeys up to 90 degrees. Silhouettes would not do: a house's from the front
    and from the back differ in a pixel of its door.

    Args:
        cameras: ``azimuth``, ``elevation``, ``distance``, ``fovy`` (degrees) of each image.
    """
    behind, found = backgrounds(images), []
    for turn in range(TURNS):
        azimuth = cameras["azimuth"] + turn * 360.0 / TURNS
        errors = []
        for factor in NEARER:
            seen = {**cameras, "azimuth": azimuth, "distance": cameras["distance"] * factor}
            true, _ = render(name, color_name, **seen, background=behind, supersample=1)
            errors.append((true - images).square().mean(dim=(1, 2, 3)).sqrt())
        found.append(torch.stack(errors).amin(dim=0))
    asked, *others = found
    return asked <= torch.stack(others).amin(dim=0) + _EQUAL


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


def _sampled(
    teacher: StableDiffusionTeacher, scenes: Scenes
) -> tuple[list[tuple[str, str]], list[str], Float[Tensor, "S V 3 64 64"]]:
    """(Object, colour) of each scene, the prompts that say so, and what the teacher makes of them
    from the scenes' cameras."""
    labels = zip(scenes.objects.tolist(), scenes.colors.tolist(), strict=True)
    wanted = [(OBJECT_NAMES[o], COLOR_NAMES[c]) for o, c in labels]
    prompts = [caption(*pair, None, False) for pair in wanted]
    step = BATCH // teacher.views_at_once
    images = [
        sample_views(teacher, prompts[i : i + step], scenes.c2w[i : i + step], seed=i)
        for i in range(0, len(prompts), step)
    ]
    return wanted, prompts, torch.cat(images)


def measure(
    teacher: StableDiffusionTeacher, alone: StableDiffusionTeacher, count: int = 256, seed: int = 5
) -> dict:
    """Of ``count`` sampled scenes, as JSON: ``samples``, their views, ``judge``, the share of them
    that the judge names right, and :func:`_compared`. Of as many scenes of objects that are not
    round, or ``TURNED_SCENES``: ``obeyed``, the share of the ``views`` that obey their camera, and
    the same ``by_object``.

    Args:
        alone: The teacher of single views that ``teacher`` was made from.
    """
    views, pairs = teacher.views_at_once, training_pairs()
    scenes = build_scenes(count, views, seed, pairs, 0.0)
    wanted, prompts, images = _sampled(teacher, scenes)
    named = load_judge().name(images.flatten(0, 1))
    right = [n == wanted[i // views] for i, n in enumerate(named)]
    turned = [pair for pair in pairs if pair[0] not in ROUND]
    turned = build_scenes(min(count, TURNED_SCENES), views, seed + 1, turned, 0.0)
    asked, _, seen = _sampled(teacher, turned)
    by_object: dict[str, list[bool]] = {}
    for i, pair in enumerate(asked):
        flags = obeyed(seen[i], *pair, {k: v[i] for k, v in turned.cameras.items()})
        by_object.setdefault(pair[0], []).extend(flags.tolist())
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
