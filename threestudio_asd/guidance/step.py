"""One distillation step: draw, ask teacher and critic as rarely as possible, combine.

The mathematics is :mod:`threestudio_asd.distill`'s; this module decides which network sees what.
With shared draws (Algorithm 1 of arXiv:2312.00739) one ASD step costs two UNet evaluations without
gradient, batched into one call, and one with gradient; see ``docs/method.md`` for the full table.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.critics.lora import LoRACritic
from threestudio_asd.distill.critic_step import CriticSettings, CriticStep, gamma_teacher
from threestudio_asd.distill.methods import Method
from threestudio_asd.distill.schedule import to_epsilon
from threestudio_asd.distill.scores import Scores
from threestudio_asd.errors import UserError
from threestudio_asd.teachers.base import Teacher

# Perp-neg directions with smaller weights are not worth a UNet evaluation (threestudio's bound).
_NEGLIGIBLE_WEIGHT = 1e-4


@dataclass(frozen=True, eq=False)
class Draw:
    """A timestep and a noise for each item of a batch."""

    t: Int[Tensor, " B"]
    noise: Float[Tensor, "B C h w"]


@dataclass(frozen=True, eq=False)
class Conditions:
    """Text embeddings of a batch.

    Args:
        cond: e_y's prompt, view-dependent.
        null: the unconditional (or negative) prompt.
        plain: the critic's prompt, the same for every view.
        negatives: perp-neg's K prompts for each item.
        negative_weights: their weights, with threestudio's sign (negative repels).
    """

    cond: Float[Tensor, "B L D"]
    null: Float[Tensor, "B L D"]
    plain: Float[Tensor, "B L D"]
    negatives: Float[Tensor, "B K L D"] | None = None
    negative_weights: Float[Tensor, "B K"] | None = None

    def tiled(self, times: int) -> "Conditions":
        """The whole batch ``times`` times over."""
        if times == 1:
            return self

        def tile(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.repeat(times, *[1] * (x.dim() - 1))

        return Conditions(**{name: tile(value) for name, value in vars(self).items()})


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step found; ``critic_terms`` (weighted, with gradient) is empty without a critic."""

    scores: Scores
    critic_terms: dict[str, Tensor]


class _TeacherCall:
    """Collects what the teacher is asked, for one call without gradient."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []

    def ask(self, x_t: Tensor, t: Tensor, condition: Tensor) -> int:
        self.rows.append((x_t, t, condition))
        return len(self.rows) - 1

    @torch.no_grad()
    def answers(self) -> list[Tensor]:
        if not self.rows:
            return []
        x_t, t, condition = (torch.cat(column) for column in zip(*self.rows, strict=True))
        epsilon = self.teacher.epsilon(x_t, t, condition)
        return list(epsilon.split([len(row[1]) for row in self.rows]))


class _Request:
    """The teacher's predictions at one draw: which are asked, and how they are put together."""

    def __init__(
        self, call: _TeacherCall, x_t: Tensor, t: Tensor, text: Conditions, needs: set[str]
    ) -> None:
        self.text, self.x_t = text, x_t
        self.slots = {
            name: call.ask(x_t, t, getattr(text, name))
            for name in ("cond", "null")
            if name in needs
        }
        self.which: Tensor | None = None
        if "negatives" in needs and text.negative_weights is not None:
            self.which = torch.nonzero(text.negative_weights.abs() > _NEGLIGIBLE_WEIGHT)
            item, k = self.which.unbind(1)
            if len(item):
                self.slots["negatives"] = call.ask(x_t[item], t[item], text.negatives[item, k])

    def collect(self, answers: list[Tensor]) -> dict[str, Tensor]:
        found = {name: answers[slot] for name, slot in self.slots.items()}
        if self.which is not None:
            batch, count = self.text.negative_weights.shape
            negatives = self.x_t.new_zeros(batch, count, *self.x_t.shape[1:])
            if "negatives" in found:
                negatives[self.which[:, 0], self.which[:, 1]] = found["negatives"].to(negatives)
            found["negatives"] = negatives
        return found


def evaluate(
    method: Method,
    teacher: Teacher,
    critic: LoRACritic | None,
    settings: CriticSettings,
    latents: Float[Tensor, "B C h w"],
    text: Conditions,
    camera: Float[Tensor, "B 4 4"] | None,
    draw: Draw,
    critic_draw: Draw | None = None,
    hide_camera: bool = False,
    critic_scale: float = 1.0,
) -> StepResult:
    """Evaluate teacher and critic for one step of ``method``.

    Args:
        latents: x_0, the encoded renders (detached here).
        camera: What the critic is told about the view; None for a critic without cameras.
        draw: The generator's timesteps and noise.
        critic_draw: The critic's, for any multiple of the batch; None shares the generator's draw,
            so that the critic's pass with gradient serves the generator too.
        hide_camera: Camera dropout: the critic's *training* pass does not see the camera.
        critic_scale: Guidance between the critic without and with the camera; 1 is the latter.

    Raises:
        UserError: The method needs a critic and there is none, or draws are shared between
            networks of different noise schedules.
    """
    trained = method.critic is not None
    if trained and critic is None:
        raise UserError(f"Method '{method.name}' needs a critic; build the guidance with one.")
    latents = latents.detach()
    x_t = teacher.schedule.add_noise(latents, draw.noise, draw.t)
    shared = critic_draw is None
    call = _TeacherCall(teacher)
    repel = trained and method.critic.needs_teacher(settings)
    needs = {name for name in method.needs if name in ("cond", "null")} | {"negatives"}
    request = _Request(call, x_t, draw.t, text, needs | ({"cond"} if repel and shared else set()))
    if not trained:
        found = request.collect(call.answers())
        return StepResult(_scores(x_t, draw, found, text, None), {})

    if shared and not torch.equal(critic.schedule.alphas_cumprod, teacher.schedule.alphas_cumprod):
        raise UserError(
            "share_noise needs one noise schedule for teacher and critic; set "
            "system.guidance.share_noise=false to draw them independently."
        )
    times = 1 if shared else len(critic_draw.t) // len(latents)
    c_draw, c_text = (draw, text) if shared else (critic_draw, text.tiled(times))
    x0 = latents.repeat(times, 1, 1, 1)
    c_x_t = x_t if shared else critic.schedule.add_noise(x0, c_draw.noise, c_draw.t)
    c_request = request
    if repel and not shared:
        raw = text.negatives is None or settings.gamma_target == "official"
        c_needs = {"cond", "negatives"} if raw else {"cond", "null", "negatives"}
        c_request = _Request(call, c_x_t, c_draw.t, c_text, c_needs)
    answers = call.answers()
    found = request.collect(answers)

    c_camera = None if camera is None else camera.repeat(times, 1, 1)
    prediction = critic.predict(c_x_t, c_draw.t, c_text.plain, None if hide_camera else c_camera)
    step = CriticStep(
        prediction, critic.prediction_type, critic.schedule, x0, c_draw.noise, c_x_t, c_draw.t
    )
    if repel:
        c_found = found if shared else c_request.collect(answers)
        target = gamma_teacher(
            settings,
            c_found["cond"],
            c_found.get("null"),
            c_found.get("negatives"),
            c_text.negative_weights,
        )
        step = replace(step, teacher=target)
    terms = method.critic.terms(step, settings)

    reusable = shared and critic_scale == 1.0 and not (hide_camera and camera is not None)
    if reusable:
        e_phi = to_epsilon(
            critic.schedule, prediction.detach(), x_t, draw.t, critic.prediction_type
        )
    else:
        e_phi = critic_epsilon(critic, x_t, draw.t, text.plain, camera, critic_scale)
    return StepResult(_scores(x_t, draw, found, text, e_phi), terms)


@torch.no_grad()
def critic_epsilon(
    critic: LoRACritic,
    x_t: Float[Tensor, "B C h w"],
    t: Int[Tensor, " B"],
    plain: Float[Tensor, "B L D"],
    camera: Float[Tensor, "B 4 4"] | None,
    scale: float,
) -> Float[Tensor, "B C h w"]:
    """e_phi for the generator, with guidance ``scale`` from the camera-less to the camera's."""
    if scale == 1.0 or camera is None:
        return critic.epsilon(x_t, t, plain, camera)
    both = critic.epsilon(
        x_t.repeat(2, 1, 1, 1),
        t.repeat(2),
        plain.repeat(2, 1, 1),
        torch.cat((camera, torch.zeros_like(camera))),
    )
    with_camera, without = both.chunk(2)
    return without + scale * (with_camera - without)


def _scores(
    x_t: Tensor, draw: Draw, found: dict[str, Tensor], text: Conditions, critic: Tensor | None
) -> Scores:
    # A field that no term of the method reads was not evaluated: NaN would reveal a wrong `needs`.
    missing = torch.full_like(x_t, torch.nan)
    return Scores(
        x_t=x_t,
        t=draw.t,
        noise=draw.noise,
        null=found.get("null", missing),
        cond=found.get("cond", missing),
        critic=critic,
        negatives=found.get("negatives"),
        negative_weights=text.negative_weights if "negatives" in found else None,
    )
