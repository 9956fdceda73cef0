"""Real pictures of the discriminator: where they come from, and draws of them.

system.guidance:
  real_weight: 0.1
  reals: {type: folder, folder: pictures, containing: "{prompt}"}
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.critics.base import Critic
from threestudio_asd.distill.critic_step import CriticStep
from threestudio_asd.distill.methods import Method
from threestudio_asd.distill.noising import NoisyBatch
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.distill.real_terms import real_terms
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.inputs.latents import encoded_mean
from threestudio_asd.guidance.inputs.texts import PROMPT
from threestudio_asd.pictures import captioned, read_pictures
from threestudio_asd.registry import Registry
from threestudio_asd.teachers.base import Teacher
from threestudio_asd.teachers.condition import Condition

RENDER_SEED = 47  # of no other set of the embedded world
_BATCH = 32


@dataclass
class RealsConfig:
    """The section ``system.guidance.reals``."""

    type: str = ""
    """``world``, renders of the embedded world, or ``folder``."""
    folder: str | None = None
    """Of pictures with a ``metadata.jsonl``, for ``folder``."""
    count: int = 256
    """How many renders, for ``world``."""
    containing: str = ""
    """Take only pictures whose caption has these words; {prompt} is the user's prompt."""


@dataclass(frozen=True, eq=False)
class RealPictures:
    """``latents`` (N, C, h, w), and for each the row of ``captions`` that describes it."""

    latents: Float[Tensor, "N C h w"]
    captions: Condition
    which: Tensor
    device: torch.device

    def draw(self, count: int) -> tuple[Float[Tensor, "B C h w"], Condition]:
        """``count`` pictures, uniformly with replacement, with their captions."""
        return self.at(torch.randint(len(self.latents), (count,)))

    def at(self, numbers: Tensor) -> tuple[Float[Tensor, "B C h w"], Condition]:
        """The pictures of these numbers, on the teacher's device."""
        tokens = self.captions.tokens[self.which[numbers]].to(self.device)
        return self.latents[numbers].to(self.device), Condition(tokens)


#: Kinds of real pictures: ``(section reals, teacher) -> (latents on the CPU, captions)``.
REALS: Registry[Any] = Registry("system.guidance.reals.type")


def real_pictures(
    cfg: Any, teacher: Teacher, methods: Iterable[Method], prompt: str | None = None
) -> RealPictures | None:
    """Those that ``cfg``, a guidance's, asks for; None if their weight is 0, or if it takes a
    ``prompt`` to choose them and there is none yet.

    Raises:
        UserError: A weight without pictures, or where nothing is trained on them; pictures that
            cannot be had.
    """
    if cfg.real_weight == 0:
        return None
    if all(method.critic is None for method in methods):
        raise UserError(
            "system.guidance.real_weight is about the critic, and the method trains none; set it "
            "to 0, or choose method asd."
        )
    if teacher.knows_cameras:
        raise UserError(
            "This teacher is told the camera, which real pictures do not come with; set "
            "system.guidance.real_weight to 0."
        )
    wanted, kind = _section(cfg.reals), REALS.get(_section(cfg.reals).type)
    if prompt is None and PROMPT in wanted.containing:
        return None
    wanted.containing = wanted.containing.replace(PROMPT, prompt or "")
    latents, texts = kind(wanted, teacher)
    distinct = list(dict.fromkeys(texts))
    rows = teacher.embed_text(distinct)
    teacher.release_text_encoder()
    host.info(f"The discriminator has {len(latents)} real pictures of {len(distinct)} captions.")
    which = torch.tensor([distinct.index(text) for text in texts])
    return RealPictures(latents, Condition(rows.tokens.cpu()), which, teacher.schedule.device)


def terms_at(
    noisy: NoisyBatch,
    said: Condition,
    teacher: Teacher,
    critic: Critic,
    weight: float,
    attraction: float,
) -> dict[str, Float[Tensor, ""]]:
    """The critic's terms at noised real pictures with the captions ``said``, which teacher and
    critic are told; the critic sees no camera."""
    with torch.no_grad():
        e_y = teacher.epsilon(noisy.x_t, noisy.t, said)
    prediction = critic.predict(noisy.x_t, noisy.t, said)
    predictions = Predictions(noisy, {"cond": e_y})
    step = CriticStep(prediction, critic.prediction_type, critic.schedule, predictions)
    return real_terms(step, weight, attraction)


def weight_at(weight: Any, epoch: int, global_step: int) -> float:
    """``system.guidance.real_weight``, a number or a schedule, at a step.

    Raises:
        UserError: It is negative.
    """
    value = float(host.C(weight, epoch, global_step))
    if not value >= 0:
        raise UserError(f"system.guidance.real_weight must be at least 0; got {value:g}.")
    return value


def _section(given: Any) -> RealsConfig:
    given = OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given
    known = [field.name for field in fields(RealsConfig)]
    if unknown := sorted({*given} - {*known}):
        raise UserError(
            f"system.guidance.reals has no {', '.join(unknown)}; choose from: {', '.join(known)}."
        )
    section = RealsConfig(**given)
    if not section.type:
        raise UserError(
            "system.guidance.real_weight needs real pictures: set reals.type=folder and "
            "reals.folder=..., or reals.type=world in the embedded world (system.guidance.reals)."
        )
    return section


def _of_world(cfg: RealsConfig, teacher: Teacher) -> tuple[Tensor, list[str]]:
    """Renders of the embedded world from its training's cameras; held-out pairs are not among
    them."""
    from threestudio_asd.tiny.captions import VIEWS, caption
    from threestudio_asd.tiny.dataset import COLOR_NAMES, OBJECT_NAMES, build
    from threestudio_asd.tiny.scenes import training_pairs

    if cfg.count < 1:
        raise UserError(f"system.guidance.reals.count must be at least 1; got {cfg.count}.")
    pairs = [p for p in training_pairs() if cfg.containing in caption(*p, None, False)]
    if not pairs:
        raise _none_left(cfg, "of the embedded world's captions")
    renders = build(cfg.count, RENDER_SEED, pairs, 0.0)
    labels = (renders.objects, renders.colors, renders.views)
    rows = zip(*(label.tolist() for label in labels), strict=True)
    texts = [caption(OBJECT_NAMES[o], COLOR_NAMES[c], VIEWS[v], False) for o, c, v in rows]
    return _encoded(teacher, (x.float() / 255 for x in renders.images.split(_BATCH))), texts


def _of_folder(cfg: RealsConfig, teacher: Teacher) -> tuple[Tensor, list[str]]:
    """The pictures of a folder (:mod:`threestudio_asd.pictures`); those that cannot be read are
    named and left out.

    Raises:
        UserError: The folder is not as it should be, or none of its pictures can be used.
    """
    if cfg.folder is None:
        raise UserError("system.guidance.reals.type=folder needs reals.folder, of pictures.")
    said = captioned(Path(cfg.folder))
    files = sorted(file for file, text in said.items() if cfg.containing in text)
    if not files:
        raise _none_left(cfg, f"of the {len(said)} captions in {cfg.folder}")
    which: list[int] = []

    def batches() -> Iterable[Tensor]:
        for numbers, images in read_pictures(files, teacher.image_size, _BATCH):
            which.extend(numbers)
            yield images

    latents = _encoded(teacher, batches())
    if not which:
        raise UserError(f"None of the {len(files)} pictures in {cfg.folder} can be read.")
    if lost := len(files) - len(which):
        host.warn(f"{lost} of {len(files)} pictures in {cfg.folder} are left out.")
    return latents, [said[files[i]] for i in which]


REALS.add("world", _of_world)
REALS.add("folder", _of_folder)


def _encoded(teacher: Teacher, batches: Iterable[Tensor]) -> Tensor:
    device = teacher.schedule.device
    found = [encoded_mean(teacher, images.to(device)).float().cpu() for images in batches]
    return torch.cat(found) if found else torch.empty(0, *teacher.latent_shape)


def _none_left(cfg: RealsConfig, where: str) -> UserError:
    return UserError(
        f'None {where} has the words "{cfg.containing}": change system.guidance.reals.containing.'
    )
