"""Captions that a generator is trained on: of the embedded world, or a list."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import homes
from threestudio_asd.errors import UserError
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny.captions import VIEWS, training_caption, view_label
from threestudio_asd.tiny.dataset import COLOR_NAMES, OBJECT_NAMES, Renders, random_cameras
from threestudio_asd.tiny.scenes import training_pairs

_CAMERAS = 256

#: (object, colour, view, whether a normal map) of a picture of the embedded world.
Kind = tuple[str, str, str, bool]


@dataclass(frozen=True, eq=False)
class Captions:
    """Captions to draw from.

    Args:
        count: How many there are.
        say: ``(numbers, rng) ->`` the texts of these; a caption may have several wordings.
        teacher: The model that embeds them.
    """

    count: int
    say: Callable[[Sequence[int], Random], list[str]]
    teacher: StableDiffusionTeacher

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "B L D"]:
        """Embeddings of ``count`` captions, on the teacher's device."""
        return self.embedded(self.numbers(count, generator), generator)

    def numbers(self, count: int, generator: torch.Generator) -> list[int]:
        """Which captions, uniformly with replacement."""
        return _drawn(self.count, count, generator)

    def embedded(
        self, numbers: Sequence[int], generator: torch.Generator
    ) -> Float[Tensor, "B L D"]:
        rng = Random(_drawn(2**62, 1, generator)[0])
        return self.teacher.embed_text(self.say(numbers, rng)).tokens


def listed_captions(texts: Sequence[str], teacher: StableDiffusionTeacher) -> Captions:
    """The ``texts``, each with one wording."""
    return Captions(len(texts), lambda numbers, rng: [texts[i] for i in numbers], teacher)


def world_captions(teacher: StableDiffusionTeacher, kinds: Sequence[Kind] = ()) -> Captions:
    """Training captions of the embedded world, never the empty one, of ``kinds``; by default of all
    pairs that a teacher may see, from views as often as cameras see them."""
    kinds = kinds or [(o, c, v, False) for o, c in training_pairs() for v in _views()]

    def say(numbers: Sequence[int], rng: Random) -> list[str]:
        return [_spoken(rng, kinds[i]) for i in numbers]

    return Captions(len(kinds), say, teacher)


def named_captions(name: str, teacher: StableDiffusionTeacher) -> Captions:
    """Those of a text file with one on each line, or of the embedded world for ``world``.

    Raises:
        UserError: The file cannot be read, or is empty.
    """
    if name == "world":
        return world_captions(teacher)
    file = homes.expanded(name)
    try:
        texts = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"captions={name} cannot be read as a text file: {error}.") from error
    if not texts:
        raise UserError(f"captions={name} is empty: write a caption on each line.")
    return listed_captions(texts, teacher)


def kinds_of(renders: Renders) -> list[Kind]:
    """What each render shows."""
    columns = (renders.objects, renders.colors, renders.views, renders.normal_maps)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [(OBJECT_NAMES[o], COLOR_NAMES[c], VIEWS[v], n) for o, c, v, n in rows]


def _views() -> list[str]:
    cameras = random_cameras(_CAMERAS, torch.Generator().manual_seed(0))
    angles = zip(cameras["azimuth"].tolist(), cameras["elevation"].tolist(), strict=True)
    return [view_label(*angle) for angle in angles]


def _spoken(rng: Random, kind: Kind) -> str:
    """A training caption with words: the empty one is what guidance subtracts."""
    while not (text := training_caption(rng, *kind)):
        pass
    return text


def _drawn(below: int, count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(below, (count,), generator=generator, device=generator.device).tolist()
