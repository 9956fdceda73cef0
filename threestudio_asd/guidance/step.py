"""One distillation step: ask teacher and critic as rarely as possible, and combine.

The mathematics is :mod:`threestudio_asd.distill`'s; this module decides which network sees what.
With shared draws (Algorithm 1 of arXiv:2312.00739) one ASD step costs two UNet evaluations without
gradient, batched into one call, and one with gradient; see ``docs/method.md`` for the full table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.critics.base import Critic
from threestudio_asd.distill.critic_step import CriticSettings, CriticStep
from threestudio_asd.distill.gradient import (
    clip_gradient,
    normalise_gradient,
    reparametrised_loss,
)
from threestudio_asd.distill.guidance import classifier_free_guidance
from threestudio_asd.distill.methods import Method
from threestudio_asd.distill.noise_fields import Field
from threestudio_asd.distill.noising import NOISINGS, Draws, NoisyBatch, Views, check_noisy
from threestudio_asd.distill.prediction_types import to_epsilon
from threestudio_asd.distill.predictions import Predictions, beside
from threestudio_asd.distill.schedule import Times
from threestudio_asd.distill.settings import Settings, at_start
from threestudio_asd.distill.timesteps import TimestepRange
from threestudio_asd.distill.weighting import weight
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.inputs.predict import AskTeacher
from threestudio_asd.guidance.query import Answer, Query, ask
from threestudio_asd.guidance.sides import (
    differentiable_in_inputs,
    noisy_sides,
    said_beside,
    told,
)
from threestudio_asd.teachers.base import Teacher


@dataclass(frozen=True, eq=False)
class Distilled:
    """One step before its losses are named and weighted.

    Args:
        predictions: What the networks said, and at which noisy batch.
        loss: The generator's; its gradient with respect to the latents is ``grad`` / B, or what
            the method's reduction and factor make of it.
        grad: w(t) (T - S), clipped; None for a method that states a loss.
        critic_terms: The critic's losses by name, weighted, with gradient; empty without a critic.
        timesteps: Between which t was drawn.
    """

    predictions: Predictions
    loss: Float[Tensor, ""]
    grad: Float[Tensor, "B C h w"] | None
    critic_terms: dict[str, Tensor]
    timesteps: TimestepRange | None = None

    def losses(self, name: str) -> dict[str, Any]:
        """The generator's loss as ``name``, the critic's as ``loss_lora``, and scalars to log."""
        out = {name: self.loss}
        if self.critic_terms:
            out["loss_lora"] = sum(self.critic_terms.values())
        if self.grad is not None:
            out["grad_norm"] = self.grad.norm()
        if self.timesteps is not None:
            out |= {"min_step": self.timesteps.min_step, "max_step": self.timesteps.max_step}
        return out


@dataclass(frozen=True, eq=False)
class DistillationStep:
    """A method with the networks that carry it out, and what a config says of its gradient.

    Args:
        critic: Required by methods that train one, ignored by others.
        settings: Of the critic's loss.
        critic_scale: Guidance of the critic from no camera to the camera; None is the method's.
        weighting: Name of w(t); None is the method's.
        rescale: Lin et al.'s phi of the target; 0 is off.
        normalise: Give each item's gradient, after it was clipped, an L2 norm of 1.
        field: The noise field that the method's noising names.

    Raises:
        UserError: A critic is missing, or its noise schedule is not the teacher's: both are asked
            about the same noisy latents.
    """

    method: Method
    teacher: Teacher
    critic: Critic | None = None
    settings: CriticSettings = field(default_factory=CriticSettings)
    critic_scale: float | None = None
    weighting: str | None = None
    rescale: float = 0.0
    normalise: bool = False
    field: Field | None = None

    def __post_init__(self) -> None:
        if self.method.critic is None:
            return
        if self.critic is None:
            raise UserError(f"Method '{self.method.name}' needs a critic; build one for the step.")
        if not self.teacher.schedule.same_as(self.critic.schedule):
            raise UserError(
                "The critic's model has another noise schedule than the teacher's; choose another "
                "pretrained_model_name_or_path_lora, or leave it out to adapt the teacher's UNet."
            )

    def noisy(
        self,
        latents: Float[Tensor, "B C h w"],
        t: Times,
        views: Views,
        text: Conditions,
        settings: Mapping[str, float] | None = None,
        draws: Draws | None = None,
        scale: float = 1.0,
    ) -> NoisyBatch:
        """The method's noising of the encoded renders at times ``t``, for a step at the guidance
        scale ``scale``; ``draws`` gives its random numbers, torch's by default."""
        noising = NOISINGS.get(self.method.noising)
        x0 = latents.detach() if self.method.generator_loss is None else latents
        settings = Settings(settings or self.defaults)
        own = settings.limited(noising.settings, f"the noising '{self.method.noising}'")
        draws = draws or Draws()
        predict = AskTeacher(self.teacher, text, noising.asks, own, draws, self.field, scale)
        noisy = noising.make(x0, t, views, predict)
        return check_noisy(noisy, noising, self.method.noising)

    def evaluate(
        self,
        latents: Float[Tensor, "B C h w"],
        text: Conditions,
        noisy: NoisyBatch,
        scale: float,
        clip: float | None = None,
        critic_noisy: NoisyBatch | None = None,
        hide_camera: bool = False,
        settings: Mapping[str, float] | None = None,
    ) -> Distilled:
        """Evaluate teacher and critic once, and combine.

        Args:
            latents: The encoded renders, with their gradient.
            noisy: What :meth:`noisy` made of them.
            scale: The guidance scale s.
            clip: Each entry of the gradient is clamped to it; None leaves it as it is.
            critic_noisy: The critic's own, for any multiple of the batch; None shares the
                generator's, so that the critic's pass with gradient serves the generator too.
            hide_camera: Camera dropout: the critic's *training* pass does not see the camera.
            settings: The method's; its defaults if left out.
        """
        numbers = (scale, Settings(settings or self.defaults), clip)
        needs = frozenset(self.method.needs) - {*self.method.sides}
        if self.method.critic is None:
            (answer,) = self._ask([Query(noisy, text, needs)])
            return self._combine(latents, noisy, self._said(answer, needs), {}, *numbers)

        wanted, raw = self._critic_needs, self._raw
        shared = critic_noisy is None
        at = noisy.detached() if critic_noisy is None else critic_noisy
        own = text.repeat(len(at.t) // len(noisy.t))
        if shared:
            queries = [Query(noisy, text, needs | wanted, raw and "cond" not in needs)]
        else:
            queries = [Query(noisy, text, needs), Query(at, own, wanted, raw)]
        answers = self._ask(queries)
        prediction = self._predict(at, own, hide_camera)
        terms = self._critic_terms(at, prediction, answers[-1])

        saw_camera = text.critic.camera is None or not hide_camera
        reusable = shared and saw_camera and self._camera_scale == 1.0 and not self._through
        said = self._said(answers[0], needs)
        said |= self._e_phi(noisy, text, prediction.detach() if reusable else None)
        return self._combine(latents, noisy, said, terms, *numbers)

    def critic_terms(
        self, noisy: NoisyBatch, text: Conditions, hide_camera: bool = False
    ) -> dict[str, Tensor]:
        """The critic's losses by name at one draw, of a critic that is trained more often than the
        generator; arguments as for :meth:`evaluate`."""
        text = text.repeat(len(noisy.t) // len(text.critic))
        (answer,) = self._ask([Query(noisy, text, self._critic_needs, self._raw)])
        return self._critic_terms(noisy, self._predict(noisy, text, hide_camera), answer)

    def _combine(
        self,
        latents: Tensor,
        noisy: NoisyBatch,
        said: dict[str, Tensor],
        critic_terms: dict[str, Tensor],
        scale: float,
        settings: Settings,
        clip: float | None,
    ) -> Distilled:
        predictions = Predictions(
            *(noisy, said, f"method '{self.method.name}'", self.teacher.schedule),
            *(settings, self.teacher.views_at_once, scale),
        )
        if self.method.generator_loss is not None:
            loss = self.method.generator_loss(predictions, scale)
            return Distilled(predictions, loss, None, critic_terms)
        weighting = self.weighting or self.method.weighting
        w = weight(weighting, self.teacher.schedule, noisy.t, noisy.x_t)
        grad = clip_gradient(self.method.gradient(predictions, scale, w, self.rescale), clip)
        if self.normalise:
            grad = normalise_gradient(grad)
        loss = reparametrised_loss(latents, grad, self.method.divisor(latents.shape))
        return Distilled(predictions, loss, grad, critic_terms)

    @property
    def defaults(self) -> dict[str, Any]:
        """The method's settings, where nobody gives others; schedules at their start."""
        return {k: at_start(v) for k, v in self.method.with_settings({}, "").items()}

    @property
    def asked(self) -> frozenset[str]:
        """The teacher's predictions that the step may ask for."""
        names = {*self.method.needs, *NOISINGS.get(self.method.noising).asks}
        return frozenset(names | self._critic_needs) - {*self.method.sides}

    @property
    def _camera_scale(self) -> float:
        """The critic's guidance scale from no camera to the camera."""
        return self.method.critic_scale if self.critic_scale is None else self.critic_scale

    @property
    def _through(self) -> tuple[str, ...]:
        """The predictions that the generator's loss is differentiated through."""
        loss = self.method.generator_loss
        return () if loss is None else loss.through

    @property
    def _critic_needs(self) -> frozenset[str]:
        """The predictions of the teacher that the critic's objective reads, on all sides."""
        return frozenset(beside(n, side) for n in self._objective for side in self.method.sides)

    @property
    def _objective(self) -> tuple[str, ...]:
        return self.method.critic.needs(self.settings) if self.method.critic else ()

    @property
    def _raw(self) -> bool:
        """Whether the critic's e_y is moved as in the official code."""
        return self.settings.gamma_target == "official"

    def _ask(self, queries: list[Query]) -> list[Answer]:
        with torch.set_grad_enabled(bool({*self._through} - {*self.method.sides})):
            return ask(self.teacher, queries)

    def _said(self, answer: Answer, names: frozenset[str]) -> dict[str, Tensor]:
        found = answer.predictions(names).items()
        return {name: x if name in self._through else x.detach() for name, x in found}

    def _predict(self, at: NoisyBatch, text: Conditions, hide_camera: bool = False) -> Tensor:
        sides, condition = self._sides(at), told(text, self.method.sides)
        condition = replace(condition, camera=None) if hide_camera else condition
        return self.critic.predict(sides.x_t, sides.t, condition)

    def _sides(self, at: NoisyBatch) -> NoisyBatch:
        return noisy_sides(at, self.method.sides, self.teacher.schedule)

    def _critic_terms(
        self, at: NoisyBatch, prediction: Tensor, answer: Answer
    ) -> dict[str, Tensor]:
        found = answer.predictions(self._critic_needs, self._raw)
        said = said_beside(found, self._objective, self.method.sides)
        kind, schedule = self.critic.prediction_type, self.critic.schedule
        step = CriticStep(prediction, kind, schedule, Predictions(self._sides(at), said))
        return self.method.critic.terms(step, self.settings)

    def _e_phi(
        self, at: NoisyBatch, text: Conditions, prediction: Tensor | None
    ) -> dict[str, Float[Tensor, "B C h w"]]:
        """The critic's epsilon for the generator, by side, from a pass of its own if there is none
        yet."""
        names = self.method.sides
        with differentiable_in_inputs(self.critic, bool({*self._through} & {*names})):
            if prediction is None:
                prediction = self._predict(at, text)
                if self._camera_scale != 1.0 and text.critic.camera is not None:
                    without = self._predict(at, text, hide_camera=True)
                    prediction = classifier_free_guidance(without, prediction, self._camera_scale)
            sides, kind = self._sides(at), self.critic.prediction_type
            found = to_epsilon(self.critic.schedule, prediction, sides.x_t, sides.t, kind)
        return dict(zip(names, found.chunk(len(names)), strict=True))
