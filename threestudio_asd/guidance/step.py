"""One distillation step: ask teacher and critic as rarely as possible, and combine.

The mathematics is :mod:`threestudio_asd.distill`'s; this module decides which network sees what.
With shared draws (Algorithm 1 of arXiv:2312.00739) one ASD step costs two UNet evaluations without
gradient, batched into one call, and one with gradient; see ``docs/method.md`` for the full table.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.distill.critic_step import CriticSettings, CriticStep, gamma_teacher
from threestudio_asd.distill.guidance import classifier_free_guidance
from threestudio_asd.distill.methods import Method
from threestudio_asd.distill.schedule import NoiseSchedule, to_epsilon
from threestudio_asd.distill.scores import Scores
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.conditions import Conditions, tile
from threestudio_asd.guidance.query import Answer, Query, ask
from threestudio_asd.teachers.base import Teacher


@runtime_checkable
class Critic(Protocol):
    """What a step asks of a critic; ``LoRACritic`` is one."""

    schedule: NoiseSchedule
    prediction_type: str

    def predict(
        self, x_t: Tensor, t: Tensor, condition: Tensor, camera: Tensor | None = None
    ) -> Tensor:
        """The prediction in the critic's own space, differentiable in its parameters."""


@dataclass(frozen=True, eq=False)
class Draw:
    """A timestep and a noise for each item of a batch (several times over, if longer)."""

    t: Int[Tensor, " N"]
    noise: Float[Tensor, "N C h w"]


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step found; ``critic_terms`` (weighted, with gradient) is empty without a critic."""

    scores: Scores
    critic_terms: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class _Noisy:
    """The renders at one draw, with what is known of them."""

    x0: Tensor
    x_t: Tensor
    draw: Draw
    text: Conditions
    camera: Tensor | None

    @classmethod
    def make(
        cls,
        schedule: NoiseSchedule,
        x0: Tensor,
        draw: Draw,
        text: Conditions,
        camera: Tensor | None,
    ) -> "_Noisy":
        times = len(draw.t) // len(x0)
        x0 = tile(x0, times)
        x_t = schedule.add_noise(x0, draw.noise, draw.t)
        return cls(x0, x_t, draw, text.tiled(times), tile(camera, times))

    def query(self, needs: frozenset[str]) -> Query:
        return Query(self.x_t, self.draw.t, self.text, needs)

    def scores(self, said: Answer, critic: Tensor | None) -> Scores:
        # What no term of the method names was not evaluated: NaN reveals a term that reads it.
        unknown = torch.full_like(self.x_t, torch.nan)
        return Scores(
            x_t=self.x_t,
            t=self.draw.t,
            noise=self.draw.noise,
            null=said.get("null", unknown),
            cond=said.get("cond", unknown),
            critic=critic,
            negatives=said.get("negatives"),
            negative_weights=self.text.negative_weights if "negatives" in said else None,
        )


@dataclass(frozen=True, eq=False)
class DistillationStep:
    """A method with the networks that carry it out.

    Args:
        critic: Required by methods that train one, ignored by others.
        settings: Of the critic's loss.
        critic_scale: Guidance of the critic from no camera to the camera; 1 is the latter.

    Raises:
        UserError: A critic is missing, or its noise schedule is not the teacher's: both are asked
            about the same noisy latents.
    """

    method: Method
    teacher: Teacher
    critic: Critic | None = None
    settings: CriticSettings = field(default_factory=CriticSettings)
    critic_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.method.critic is None:
            return
        if self.critic is None:
            raise UserError(f"Method '{self.method.name}' needs a critic; build one for the step.")
        ours, theirs = (x.schedule.alphas_cumprod for x in (self.teacher, self.critic))
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs.to(ours)):
            raise UserError(
                "The critic's model has another noise schedule than the teacher's; choose another "
                "pretrained_model_name_or_path_lora, or leave it out to adapt the teacher's UNet."
            )

    def evaluate(
        self,
        latents: Float[Tensor, "B C h w"],
        text: Conditions,
        camera: Float[Tensor, "B 4 4"] | None,
        draw: Draw,
        critic_draw: Draw | None = None,
        hide_camera: bool = False,
    ) -> StepResult:
        """Evaluate teacher and critic once.

        Args:
            latents: x_0, the encoded renders (detached here).
            camera: What the critic is told about the view; None for one that knows no cameras.
            draw: The generator's timesteps and noise.
            critic_draw: The critic's own, for any multiple of the batch; None shares the
                generator's, so that the critic's pass with gradient serves the generator too.
            hide_camera: Camera dropout: the critic's *training* pass does not see the camera.
        """
        x0, schedule = latents.detach(), self.teacher.schedule
        mine = _Noisy.make(schedule, x0, draw, text, camera)
        needs = frozenset(self.method.needs)
        if self.method.critic is None:
            (said,) = ask(self.teacher, [mine.query(needs)])
            return StepResult(mine.scores(said, None), {})

        wanted = self._critic_needs(text)
        if critic_draw is None:
            critics, queries = mine, [mine.query(needs | wanted)]
        else:
            critics = _Noisy.make(schedule, x0, critic_draw, text, camera)
            queries = [mine.query(needs), critics.query(wanted)]
        said = ask(self.teacher, queries)
        prediction = self._predict(critics, hide_camera)
        terms = self._critic_terms(critics, prediction, said[-1])

        saw_camera = camera is None or not hide_camera
        reusable = critics is mine and saw_camera and self.critic_scale == 1.0
        e_phi = self._e_phi(mine, prediction.detach() if reusable else None)
        return StepResult(mine.scores(said[0], e_phi), terms)

    def critic_terms(
        self,
        latents: Float[Tensor, "B C h w"],
        text: Conditions,
        camera: Float[Tensor, "B 4 4"] | None,
        draw: Draw,
        hide_camera: bool = False,
    ) -> dict[str, Tensor]:
        """The critic's losses by name at one draw, of a critic that is trained more often than the
        generator; arguments as for :meth:`evaluate`."""
        at = _Noisy.make(self.teacher.schedule, latents.detach(), draw, text, camera)
        (said,) = ask(self.teacher, [at.query(self._critic_needs(text))])
        return self._critic_terms(at, self._predict(at, hide_camera), said)

    def _critic_needs(self, text: Conditions) -> frozenset[str]:
        """What the critic's objective asks of the teacher."""
        if not self.method.critic.needs_teacher(self.settings):
            return frozenset()
        # Perp-neg across the guidance direction needs both of its ends.
        guided = text.negatives is not None and self.settings.gamma_target == "epsilon"
        return frozenset({"cond", "null"} if guided else {"cond"})

    def _predict(self, at: _Noisy, hide_camera: bool = False) -> Tensor:
        camera = None if hide_camera else at.camera
        return self.critic.predict(at.x_t, at.draw.t, at.text.plain, camera)

    def _critic_terms(self, at: _Noisy, prediction: Tensor, said: Answer) -> dict[str, Tensor]:
        """The critic's losses by name."""
        target = None
        if "cond" in self._critic_needs(at.text):
            negatives = said.get("negatives"), at.text.negative_weights
            target = gamma_teacher(self.settings, said["cond"], said.get("null"), *negatives)
        step = CriticStep(
            prediction=prediction,
            prediction_type=self.critic.prediction_type,
            schedule=self.critic.schedule,
            x0=at.x0,
            noise=at.draw.noise,
            x_t=at.x_t,
            t=at.draw.t,
            teacher=target,
        )
        return self.method.critic.terms(step, self.settings)

    @torch.no_grad()
    def _e_phi(self, at: _Noisy, prediction: Tensor | None) -> Float[Tensor, "B C h w"]:
        """The critic's epsilon for the generator, from a pass of its own if there is none yet."""
        if prediction is None:
            prediction = self._predict(at)
            if self.critic_scale != 1.0 and at.camera is not None:
                without = self._predict(at, hide_camera=True)
                prediction = classifier_free_guidance(without, prediction, self.critic_scale)
        return to_epsilon(
            self.critic.schedule, prediction, at.x_t, at.draw.t, self.critic.prediction_type
        )
