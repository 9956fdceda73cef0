"""Real pictures as latents, with captions; and the captions of generated ones.

Sources of pictures are rows of a registry: renders of the embedded world, a folder of pictures, the
teacher's own samples (a control: nothing enters that the teacher does not know), or none, for
methods without an adversarial term.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.generators.data.cache import kept, model_state
from threestudio_asd.generators.data.captions import (
    Captions,
    kinds_of,
    listed_captions,
    named_captions,
    world_captions,
)
from threestudio_asd.generators.samples import followed, teacher_latents
from threestudio_asd.pictures import captioned, read_pictures
from threestudio_asd.registry import Registry
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny.dataset import Renders, build
from threestudio_asd.tiny.render import EVAL_SIZE
from threestudio_asd.tiny.scenes import WORLD_VERSION, training_pairs

RENDER_SEED = 31  # none of the teacher's, of the judge's or of the measures'
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Reals:
    """Real pictures with captions: ``latents`` (N, C, h, w) on the CPU; the i-th caption is that of
    the i-th picture."""

    latents: Float[Tensor, "N C h w"]
    captions: Captions

    def draw(
        self, count: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B L D"]]:
        """Latents and the embeddings of their captions, on the teacher's device."""
        numbers = self.captions.numbers(count, generator)
        device = self.captions.teacher.schedule.device
        return self.latents[numbers].to(device), self.captions.embedded(numbers, generator)


@dataclass
class RealsConfig:
    """The section ``reals`` of a config."""

    type: str = "world"
    """``world``, ``folder``, ``teacher`` or ``none``."""
    folder: str | None = None
    """Of pictures with a ``metadata.jsonl``, for ``folder``."""
    count: int = 8192
    """How many renders, or samples of the teacher."""
    scale: float = 4.0
    """The guidance scale of the teacher's samples."""
    seed: int = 0
    """Of the teacher's samples."""


@dataclass(frozen=True)
class Source:
    """A kind of real pictures: a row of ``REALS``.

    Args:
        captions: ``(section reals, teacher) ->`` the captions of its pictures, without these; or
            None where it has none of its own.
        pictures: ``(section reals, teacher, captions) ->`` the pictures with their captions; None
            for none. Captions that the config names are handed on to it.
    """

    captions: Callable[[Any, StableDiffusionTeacher], Captions | None]
    pictures: Callable[[Any, StableDiffusionTeacher, Captions], Reals | None]


REALS: Registry[Source] = Registry("reals.type")


def sources(
    cfg: Any, captions: str | None, teacher: StableDiffusionTeacher, needed: bool = True
) -> tuple[Reals | None, Captions]:
    """The real pictures that ``cfg``, a :class:`RealsConfig`, describes, and the captions of
    generated ones.

    Args:
        captions: A text file with a caption on each line, or ``world``; by default those of the
            pictures.
        needed: Without it no pictures are made; their captions are.

    Raises:
        UserError: What is named cannot be had, or there are no captions.
    """
    source = REALS.get(cfg.type)
    if captions is not None:
        said = named_captions(captions, teacher)
    elif (said := source.captions(cfg, teacher)) is None:
        raise UserError(
            f"reals.type={cfg.type} brings no captions: name a text file with one on each line, "
            "captions=captions.txt, or captions=world in the embedded world."
        )
    return source.pictures(cfg, teacher, said) if needed else None, said


def _captions_of_world(cfg: Any, teacher: StableDiffusionTeacher) -> Captions:
    _require_world(teacher)
    return world_captions(teacher)


def _world(cfg: Any, teacher: StableDiffusionTeacher, captions: Captions) -> Reals:
    """``count`` renders of the embedded world; held-out pairs are not among them."""
    _require_count(cfg.count)
    _require_world(teacher)

    def make() -> dict[str, Tensor]:
        renders = build(cfg.count, RENDER_SEED, training_pairs(), 0.0)
        chunks, encode = renders.images.split(_BATCH), encoder(teacher)
        latents = [encode(x.float() / 255) for x in followed(chunks, "encoding")]
        return {**vars(renders), "images": torch.cat(latents)}

    decides = [WORLD_VERSION, model_state(teacher, ["vae"]), cfg.count, RENDER_SEED]
    found = Renders(**kept("world", decides, make))
    return Reals(found.images, world_captions(teacher, kinds_of(found)))


def _captions_of_folder(cfg: Any, teacher: StableDiffusionTeacher) -> Captions:
    return listed_captions(list(_captioned(cfg).values()), teacher)


def _folder(cfg: Any, teacher: StableDiffusionTeacher, captions: Captions) -> Reals:
    """The pictures of a folder (:mod:`threestudio_asd.pictures`).

    Raises:
        UserError: The folder is not as it should be, or none of its pictures can be read.
    """
    texts = _captioned(cfg)
    files = sorted(texts)

    def make() -> dict[str, Any]:
        encode, which, latents = encoder(teacher), [], []
        for numbers, images in read_pictures(files, teacher.image_size, _BATCH):
            which += numbers
            latents.append(encode(images))
        return {"which": which, "latents": torch.cat(latents) if latents else torch.empty(0)}

    states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    decides = [model_state(teacher, ["vae"]), teacher.image_size, states]
    found = kept("pictures", decides, make)
    which = found["which"]
    if not which:
        raise UserError(f"None of the {len(files)} pictures in {cfg.folder} can be read.")
    if len(which) < len(files):
        log.warn("%d of %d pictures are left out.", len(files) - len(which), len(files))
    return Reals(found["latents"], listed_captions([texts[files[i]] for i in which], teacher))


def _captioned(cfg: Any) -> dict[Path, str]:
    if cfg.folder is None:
        raise UserError("reals.type=folder needs reals.folder=..., the folder of pictures.")
    return captioned(cfg.folder)


def _samples(cfg: Any, teacher: StableDiffusionTeacher, captions: Captions) -> Reals:
    """``count`` samples of the teacher."""
    _require_count(cfg.count)
    rng = Random(cfg.seed)
    texts = captions.say([rng.randrange(captions.count) for _ in range(cfg.count)], rng)
    latents = teacher_latents(teacher, texts, cfg.scale, cfg.seed)
    return Reals(latents, listed_captions(texts, teacher))


REALS.add("none", Source(lambda cfg, teacher: None, lambda cfg, teacher, captions: None))
REALS.add("world", Source(_captions_of_world, _world))
REALS.add("folder", Source(_captions_of_folder, _folder))
REALS.add("teacher", Source(lambda cfg, teacher: None, _samples))


def encoder(teacher: StableDiffusionTeacher) -> Callable[[Tensor], Tensor]:
    """From images (B, 3, H, W) in [0, 1] to the means of their posteriors, on the CPU."""
    means = StableDiffusionTeacher(teacher.net, teacher.vae, teacher.folder, posterior="mean")

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        return means.encode(images.to(teacher.schedule.device)).cpu()

    return encode


def _require_world(teacher: StableDiffusionTeacher) -> None:
    if teacher.image_size != EVAL_SIZE:
        raise UserError(
            f"reals.type=world has pictures of {EVAL_SIZE} pixels and the teacher draws "
            f"{teacher.image_size}: choose the embedded model, or reals.type=folder."
        )


def _require_count(count: int) -> None:
    if count < 1:
        raise UserError(f"reals.count={count}: at least 1.")
