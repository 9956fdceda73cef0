"""What ways of drawing have in common: one ruler, one set of captions, one noise."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from threestudio_asd import log
from threestudio_asd.compare.report.summary import Estimate
from threestudio_asd.generators.measure.measures import Ruler, held_renders, pairs_of
from threestudio_asd.generators.reals import encoder
from threestudio_asd.generators.samples import (
    DDIM_STEPS,
    decoded,
    generator_latents,
    teacher_latents,
)
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.one_step import OneStepGenerator
from threestudio_asd.tiny.dataset import Renders
from threestudio_asd.tiny.judge import load_judge
from threestudio_asd.tiny.train.measure import RENDER_SEED, captions_of


@dataclass(frozen=True, eq=False)
class Measured:
    """One way of drawing.

    Args:
        series: What draws; the ways of one series differ in their evaluations.
        evaluations: Of the network, for each picture.
        images: RGB, 0 .. 255.
        captions, pairs: Of the images; those of true renders are their own.
        figures: ``measures.MEASURES`` by name.
    """

    series: str
    evaluations: int
    images: UInt8[Tensor, "N 3 64 64"]
    captions: list[str]
    pairs: list[tuple[str, str]]
    figures: dict[str, Estimate]

    @property
    def title(self) -> str:
        if not self.evaluations:
            return self.series
        return f"{self.series}, {self.evaluations} evaluation{'s' * (self.evaluations > 1)}"


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Measures true renders, teachers and generators alike.

    Args:
        samples: Pictures of each.
        truth: True renders that they are measured against; the first have the captions that are
            drawn.
        seed: Of the noise.
    """

    samples: int
    truth: int
    seed: int

    @cached_property
    def _renders(self) -> Renders:
        return held_renders(self.truth)

    @cached_property
    def _ruler(self) -> Ruler:
        return Ruler(load_judge(), self._renders.images.float() / 255)

    @cached_property
    def shown(self) -> Renders:
        """The true renders whose captions are drawn."""
        return Renders(**{key: value[: self.samples] for key, value in vars(self._renders).items()})

    @cached_property
    def captions(self) -> list[str]:
        return captions_of(self.shown)

    def of_truth(self, teacher: StableDiffusionTeacher) -> list[Measured]:
        """What could be reached: true renders of other cameras, and those that are drawn through
        the teacher's autoencoder."""
        others = held_renders(self.samples, RENDER_SEED + 1)
        rows = [self._measured("true renders", 0, others.images.float() / 255, others)]
        return [*rows, self._measured("autoencoder alone", 0, _reconstructed(teacher, self.shown))]

    def of_teacher(self, teacher: StableDiffusionTeacher, scale: float) -> Measured:
        """The teacher in 25 steps of DDIM."""
        latents = teacher_latents(teacher, self.captions, scale, self.seed)
        evaluations = DDIM_STEPS * (1 if scale == 1.0 else 2)
        return self._measured(f"teacher, scale {scale:g}", evaluations, decoded(teacher, latents))

    def of_generator(
        self,
        title: str,
        generator: OneStepGenerator,
        model: StableDiffusionTeacher,
        steps: int = 1,
    ) -> Measured:
        """A generator; ``model`` embeds its captions and decodes its latents."""
        latents = generator_latents(generator, model, self.captions, steps, self.seed)
        return self._measured(title, steps, decoded(model, latents))

    def _measured(
        self, series: str, evaluations: int, images: Tensor, of: Renders | None = None
    ) -> Measured:
        said, pairs = captions_of(of or self.shown), pairs_of(of or self.shown)
        figures = self._ruler.measure(images, said, pairs)
        kept = (images * 255).round().byte()
        row = Measured(series, evaluations, kept, said, pairs, figures)
        log.info(
            *("%s: FID %.2f, judged right %.3f", row.title),
            *(figures[name].value for name in ("fid", "right")),
        )
        return row


def _reconstructed(teacher: StableDiffusionTeacher, renders: Renders) -> Float[Tensor, "N 3 64 64"]:
    encode = encoder(teacher)
    chunks = renders.images.split(64)
    return decoded(teacher, torch.cat([encode(x.float() / 255) for x in chunks]))
