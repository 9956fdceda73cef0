"""One step of a one-step method: the losses of the generator, and of what judges it, from draws.

    x = G(z, text),    x_t = alpha_t x + sigma_t n,    (teacher, fake network, discriminator)(x_t)

Every random number is an argument; the networks are callables, so that formulas can stand in.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from threestudio_asd.critics.encoder import Features, Tapped, parameters_at_rest
from threestudio_asd.distill.guidance import classifier_free_guidance
from threestudio_asd.distill.one_step.denoising import noise_level
from threestudio_asd.distill.one_step.objective import (
    FakeSaid,
    Losses,
    fake_losses,
    generator_losses,
)
from threestudio_asd.distill.one_step.scores import NOISE_FREE, noise_free_x0
from threestudio_asd.distill.one_step.settings import OneStepSettings
from threestudio_asd.distill.one_step.table import OneStepMethod
from threestudio_asd.distill.one_step.terms import GeneratorSaid
from threestudio_asd.distill.prediction_types import converted
from threestudio_asd.distill.schedule import NoiseSchedule, Times

# From which t of 1000 on NFSD takes the empty caption for a description of bad pictures.
_NEGATIVE_FROM = 0.2


@runtime_checkable
class ScoreNetwork(Protocol):
    """What a step asks of a teacher and of a fake network; see ``critics.encoder.TappedUNet``."""

    trained: nn.Module | None

    def __call__(
        self, x_t: Tensor, t: Tensor, text: Tensor, blocks: Sequence[str] = ()
    ) -> Tapped: ...

    def encode(self, x_t: Tensor, t: Tensor, text: Tensor, blocks: Sequence[str]) -> Features: ...


@dataclass(frozen=True, eq=False)
class Noise:
    """Which noisy version of pictures.

    Args:
        t: Times.
        noise: Standard normal.
    """

    t: Times
    noise: Float[Tensor, "B C h w"]


@dataclass(frozen=True, eq=False)
class GeneratorDraw:
    """The generator's step.

    Args:
        z: Standard normal.
        text: Captions.
        score: For the score term.
        apart: For a discriminator that does not share it.
    """

    z: Float[Tensor, "B C h w"]
    text: Float[Tensor, "B L D"]
    score: Noise
    apart: Noise | None = None


@dataclass(frozen=True, eq=False)
class FakeDraw:
    """A step of the fake network and the discriminator.

    Args:
        z, text: As in ``GeneratorDraw``.
        denoise: For the denoising loss.
        dropped: Which items' captions are hidden there; None for none.
        real, real_text: Real pictures and their captions.
        apart, apart_real: For a discriminator that shares no noise.
    """

    z: Float[Tensor, "B C h w"]
    text: Float[Tensor, "B L D"]
    denoise: Noise
    dropped: Bool[Tensor, " B"] | None = None
    real: Float[Tensor, "B C h w"] | None = None
    real_text: Float[Tensor, "B L D"] | None = None
    apart: Noise | None = None
    apart_real: Noise | None = None


@dataclass(frozen=True, eq=False)
class OneStep:
    """A row of the table with its networks.

    Args:
        method, settings: The row and its numbers.
        schedule: The noise schedule of all networks.
        generator: ``(z, text) -> x``.
        teacher: Frozen.
        fake: Trained beside the generator; None for a row without one.
        heads: Of the discriminator; None for a row without one.
        null: The empty caption.
    """

    method: OneStepMethod
    settings: OneStepSettings
    schedule: NoiseSchedule
    generator: Callable[[Tensor, Tensor], Tensor]
    teacher: ScoreNetwork
    fake: ScoreNetwork | None
    heads: nn.Module | None
    null: Float[Tensor, "L D"]

    @property
    def judge_modules(self) -> list[nn.Module]:
        """What a fake step moves: the fake network and the discriminator's heads."""
        found = [None if self.fake is None else self.fake.trained, self.heads]
        return [module for module in found if module is not None]

    def generator_losses(self, draw: GeneratorDraw, adversarial: bool = True) -> Losses:
        """Losses whose gradient reaches the generator alone.

        Args:
            adversarial: Whether the adversarial term counts already.
        """
        said = self.generator_said(draw, adversarial)
        return generator_losses(self.method, self.settings, said)

    def fake_losses(self, draw: FakeDraw) -> Losses:
        """Losses whose gradient reaches the fake network and the heads alone."""
        return fake_losses(self.method, self.settings, self.fake_said(draw))

    def generator_said(self, draw: GeneratorDraw, adversarial: bool = True) -> GeneratorSaid:
        """What the networks say of new pictures; of all parameters the generator's alone are to
        have a gradient."""
        score, discriminator = self.method.score_term, self.method.discriminator
        adversarial = adversarial and discriminator is not None
        shared = adversarial and discriminator.shares_noise
        t, noise, text = draw.score.t, draw.score.noise, draw.text
        f_real = f_fake = None
        features: Features = ()
        x = self.generator(draw.z, text)
        with parameters_at_rest(*self.judge_modules):
            if score is not None:
                x_t = self.schedule.add_noise(x, noise, t)
                with nullcontext() if score.through else torch.no_grad():
                    f_real = self._taught(x, x_t, t, noise, text)
                if score.reads_fake:
                    blocks, scale = discriminator.blocks if shared else (), self.settings.fake_scale
                    with nullcontext() if score.through or shared else torch.no_grad():
                        said = self._guided(self.fake, x_t, t, text, scale, blocks)
                    f_fake, features = said.x0, said.features
            if adversarial and not shared:
                features = self._features(x, draw.apart, text)
            logits = self.heads(features) if adversarial else ()
        levels = self.schedule.alpha(t, x), self.schedule.sigma(t, x)
        return GeneratorSaid(x, *levels, f_real, f_fake, logits)

    def fake_said(self, draw: FakeDraw) -> FakeSaid:
        """What the fake network and the heads say of new pictures, which are data, and of real
        ones."""
        with torch.no_grad():
            x = self.generator(draw.z, draw.text)
        text, noise = self._hidden(draw.text, draw.dropped), draw.denoise
        discriminator = self.method.discriminator
        shared = discriminator is not None and discriminator.shares_noise
        f_fake = level = None
        features: Features = ()
        if self.fake is not None:
            blocks = discriminator.blocks if shared else ()
            x_t = self.schedule.add_noise(x, noise.noise, noise.t)
            scale = self.settings.fake_train_scale
            said = self._guided(self.fake, x_t, noise.t, text, scale, blocks)
            f_fake, features = said.x0, said.features
            level = noise_level(self.schedule, noise.t, x)
        if discriminator is None:
            return FakeSaid(x, level, f_fake)
        if shared:
            real = self._features(draw.real, noise, text)
        else:
            features = self._features(x, draw.apart, draw.text)
            real = self._features(draw.real, draw.apart_real, draw.real_text)
        if self.settings.r1_weight:
            real = tuple(f if f.requires_grad else f.detach().requires_grad_() for f in real)
        return FakeSaid(x, level, f_fake, self.heads(features), self.heads(real), real)

    def _taught(self, x: Tensor, x_t: Tensor, t: Tensor, noise: Tensor, text: Tensor) -> Tensor:
        """f_r, guided; what stands in its place for a noise-free distance."""
        scale = self.settings.teacher_scale
        if self.method.score != "add" or self.settings.distance not in NOISE_FREE:
            return self._guided(self.teacher, x_t, t, text, scale).x0
        both = self._both(self.teacher, x_t, t, text)
        cond, null = (
            converted(self.schedule, f, x_t, t, "sample", "epsilon") for f in both.x0.chunk(2)
        )
        late = (t >= _NEGATIVE_FROM * self.schedule.num_timesteps).view(-1, 1, 1, 1)
        direction = classifier_free_guidance(null, cond, scale) - null * late
        return noise_free_x0(x, direction, noise_level(self.schedule, t, x))

    def _guided(
        self,
        network: ScoreNetwork,
        x_t: Tensor,
        t: Tensor,
        text: Tensor,
        scale: float,
        blocks: Sequence[str] = (),
    ) -> Tapped:
        """The guided x_0, and features with the caption."""
        if scale == 1.0:
            return network(x_t, t, text, blocks)
        both = self._both(network, x_t, t, text, blocks)
        cond, null = both.x0.chunk(2)
        features = tuple(f[: len(x_t)] for f in both.features)
        return Tapped(classifier_free_guidance(null, cond, scale), features)

    def _both(
        self,
        network: ScoreNetwork,
        x_t: Tensor,
        t: Tensor,
        text: Tensor,
        blocks: Sequence[str] = (),
    ) -> Tapped:
        """With the captions, then without."""
        texts = torch.cat([text, self.null.to(text).expand_as(text)])
        return network(torch.cat([x_t, x_t]), torch.cat([t, t]), texts, blocks)

    def _features(self, x: Tensor, noise: Noise, text: Tensor) -> Features:
        """What the discriminator is shown of pictures."""
        discriminator = self.method.discriminator
        network = self.fake if discriminator.network == "fake" else self.teacher
        x_t = self.schedule.add_noise(x, noise.noise, noise.t)
        return network.encode(x_t, noise.t, text, discriminator.blocks)

    def _hidden(self, text: Tensor, dropped: Tensor | None) -> Tensor:
        if dropped is None:
            return text
        return torch.where(dropped.view(-1, 1, 1), self.null.to(text), text)
