"""The methods: rows of one form; those below and, beyond SDS and the critics, in ``rows``.

    grad = E_{t, eps}[ w(t) (T - S) dx_0/dtheta ]

T is the target, S the source (``terms``), w the weighting (``weighting``), which a config may
choose; how the noisy latents are made is a column, too (``noising``), and how the gradient is
reduced over a batch (``gradient``); a method with a critic trains it beside the generator
(``critic``). A row may state a loss of the generator instead of T - S (``losses``).

    symbol        code                   meaning
    x_t           predictions.x_t        noisy latents of a render, alpha_t x_0 + sigma_t eps
    eps           predictions.noise      the drawn noise
    e_null, e_y   predictions["null"], ["cond"]    the teacher without and with the prompt
    e_phi         predictions["critic"]  the critic: the teacher plus what it learnt on renders
    s             scale                  guidance scale, e^s = e_null + s (e_y - e_null)

Which settings recover which method: ASD at gamma = 0 is VSD; VSD with the drawn eps for its critic
is SDS, and so is FSD at sqrt_beta = 0; ASD with an optimal critic is VSD at
s' = 1 + (s - 1)(1 + gamma).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.critic import CRITIC_OBJECTIVES, CriticObjective
from threestudio_asd.distill.gradient import REDUCTIONS, distillation_gradient
from threestudio_asd.distill.guidance import guidance_rescale
from threestudio_asd.distill.losses import LOSSES, GeneratorLoss
from threestudio_asd.distill.noise_fields import FIXED, WORLD_MAP
from threestudio_asd.distill.noising import NOISINGS
from threestudio_asd.distill.predictions import PREDICTIONS, Predictions, check_names, sides_of
from threestudio_asd.distill.settings import merged
from threestudio_asd.distill.terms import SOURCES, TARGETS, Term
from threestudio_asd.distill.weighting import WEIGHTINGS
from threestudio_asd.errors import UserError
from threestudio_asd.registry import Registry


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        name: Its name, as in ``METHODS.get(name)``.
        target: Name of T, a target term; None if the row has a loss.
        source: Name of S, a source term; None if the row has a loss.
        critic_objective: Name of the critic's loss; ``None`` for a method without a critic.
        paper: Where it comes from.
        noising: Name of the way from x_0 to x_t.
        loss: Name of the generator's loss, in place of T and S.
        settings: Defaults of this row for settings of its terms and its noising.
        weighting: Name of w(t), where a config names none.
        reduction: Name of how the loss sums the gradient over the batch.
        factor: Of the loss.
        critic_scale: The critic's guidance scale from no camera to the camera, where a config says
            none; 1 is the critic that knows the camera.
        negative_prompt: What "null" is asked about where the user's negative prompt is empty, of a
            method that lives from one; None is the empty prompt.

    Raises:
        NotRegisteredError: A name that nobody registered.
        UserError: A term reads what no step provides; a term reads the critic but no objective
            trains it, or the reverse; both terms and a loss, or neither; the noising adds what is
            called like a prediction, or does not add where one is asked about.
    """

    name: str
    target: str | None
    source: str | None
    critic_objective: str | None
    paper: str
    noising: str = "gaussian"
    loss: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    weighting: str = "sds"
    reduction: str = "batch"
    factor: float = 1.0
    critic_scale: float = 1.0
    negative_prompt: str | None = None

    def __post_init__(self) -> None:
        terms = (self.target, self.source)
        if (self.loss is None) != (None not in terms) or (self.loss and any(terms)):
            raise UserError(
                f"Method '{self.name}' needs a target and a source, or a loss in place of both."
            )
        adds = NOISINGS.get(self.noising).adds
        if taken := sorted({*adds} & {*PREDICTIONS}):
            raise UserError(
                f"Method '{self.name}': its noising '{self.noising}' adds {', '.join(taken)}, the "
                "name of a prediction; call it something else."
            )
        for part in self._parts:
            check_names(part.needs, f"Method '{self.name}': {part.name}", adds)
        places = {PREDICTIONS.get(name).at for name in self.needs} - {None, *adds}
        if places:
            raise UserError(
                f"Method '{self.name}' reads predictions at {', '.join(sorted(places))}, which its "
                f"noising '{self.noising}' does not add."
            )
        WEIGHTINGS.get(self.weighting), REDUCTIONS.get(self.reduction)
        self.with_settings({}, f"Method '{self.name}'")
        has_critic = self.critic is not None
        if has_critic != bool(self.sides):
            raise UserError(
                f"Method '{self.name}': its terms read {', '.join(self.needs) or 'nothing'}; its "
                f"critic objective is {self.critic_objective}. A critic must be both read by a "
                "term and trained by an objective, or neither."
            )

    @property
    def _parts(self) -> tuple[Term, ...] | tuple[GeneratorLoss]:
        if self.loss is not None:
            return (LOSSES.get(self.loss),)
        return (TARGETS.get(self.target), SOURCES.get(self.source))

    def with_settings(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """All settings with their values: the defaults of the row's parts, the row's own, and then
        those ``given`` by ``where``; numbers or schedules.

        Raises UserError if one is no setting of the row.
        """
        defaults = dict(NOISINGS.get(self.noising).settings)
        for part in self._parts:
            defaults |= part.settings
        owner = f"method '{self.name}'"
        return merged(merged(defaults, self.settings, owner, owner), given, where, owner, _with)

    @property
    def needs(self) -> tuple[str, ...]:
        """The predictions that the generator's update reads, without what the noising adds:
        evaluate no others."""
        adds = NOISINGS.get(self.noising).adds
        return tuple(sorted({name for part in self._parts for name in part.needs} - {*adds}))

    @property
    def sides(self) -> tuple[str, ...]:
        """The critic's predictions that the generator's update reads; it is trained at the latents
        of each of them, with equal weight."""
        return sides_of(self.needs)

    @property
    def critic(self) -> CriticObjective | None:
        """The objective that trains the critic."""
        if self.critic_objective is None:
            return None
        return CRITIC_OBJECTIVES.get(self.critic_objective)

    @property
    def generator_loss(self) -> GeneratorLoss | None:
        """The generator's loss, of a row that has one in place of T and S."""
        return None if self.loss is None else LOSSES.get(self.loss)

    def divisor(self, shape: Sequence[int]) -> float:
        """What :meth:`gradient` is divided by to be the loss's, for latents of ``shape``
        (B, C, H, W): B, of the reduction "batch" and the factor 1."""
        return REDUCTIONS.get(self.reduction)(shape) / self.factor

    def gradient(
        self,
        predictions: Predictions,
        scale: float,
        weight: Float[Tensor, "B 1 1 1"],
        rescale: float = 0.0,
    ) -> Float[Tensor, "B C H W"]:
        """w(t) (T - S), detached.

        Args:
            scale: The guidance scale s.
            weight: w(t), from ``weighting.weight``.
            rescale: Lin et al.'s phi in [0, 1], applied to the target; 0 is off.
        """
        target = TARGETS.get(self.target)(predictions, scale)
        if rescale != 0.0:
            target = guidance_rescale(target, predictions["cond"], rescale)
        source = SOURCES.get(self.source)(replace(predictions, scale=scale))
        return distillation_gradient(target, source, weight)


METHODS: Registry[Method] = Registry("method")


def _with(setting: str) -> list[str]:
    """The rows that have a setting of this name."""
    rows = (METHODS.get(name) for name in METHODS)
    return [f"'{row.name}'" for row in rows if setting in row.with_settings({}, "")]


def register_method(method: Method) -> Method:
    """Add a row; raises ``AlreadyRegisteredError`` if its name is taken."""
    METHODS.add(method.name, method)
    return method


# SDS: w(t) (e^s - eps). Each render alone; mode-seeking, so s is large (100).
SDS = register_method(
    Method(
        name="sds",
        target="guided",
        source="noise",
        critic_objective=None,
        paper="DreamFusion, Poole et al. 2022, arXiv:2209.14988, eq. 3",
    )
)

# SJC: e^s - 0, with w = 1. SDS without its control variate eps, whose expectation is 0. (In the
# paper's coordinates x_t / alpha_t and sigma_t / alpha_t it is (x_t - D(x_t)) / sigma. With its
# variance reduction, (x_0 - D(x_t)) / sigma, it is SDS with w = 1.)
SJC = register_method(
    Method(
        name="sjc",
        target="guided",
        source="zero",
        critic_objective=None,
        paper="Score Jacobian Chaining, Wang et al. 2022, arXiv:2212.00774",
    )
)

# MVDream: |x_0 - c x0(e^s)|^2 / 2. With x0(e) = (x_t - sigma e) / alpha and w = sigma / alpha,
# w (T - eps) = x_0 - c x0(e^s). SDS at c = 1.
MVDREAM = register_method(
    Method(
        name="mvdream",
        target="guided-x0-rescaled",
        source="noise",
        critic_objective=None,
        paper="MVDream, Shi et al. 2023, arXiv:2308.16512, section 3.2",
        weighting="asd",
    )
)

# VSD: w(t) (e^s - e_phi),  min_phi E |e_phi - eps|^2. All renders' distribution; s is about 7.5.
VSD = register_method(
    Method(
        name="vsd",
        target="guided",
        source="critic",
        critic_objective="denoise",
        paper="ProlificDreamer, Wang et al. 2023, arXiv:2305.16213",
    )
)

# ASD: w(t) (e^s - e_phi),  min_phi E[ |e_phi - eps|^2 + gamma |e_phi - e_y|^2 ],  -1 < gamma < 0.
# The critic is a WGAN discriminator's fake prompt: it also moves away from the teacher.
ASD = register_method(
    Method(
        name="asd",
        target="guided",
        source="critic",
        critic_objective="asd",
        paper="Adversarial Score Distillation, Wei et al. 2023, arXiv:2312.00739, eqs. 7 and 10",
    )
)

# FSD: w(t) (e^s - n), n the noise of a field: SDS with noise that the views share, which follows
# the teacher's probability flow when t falls with the steps and w = sigma / alpha. Around an object
# n is a map that shifts with the camera; for images, which no camera sees, one noise.
FSD = register_method(
    Method(
        name="fsd",
        target="guided",
        source="noise",
        critic_objective=None,
        paper="Flow Score Distillation, Yan et al. 2024, arXiv:2405.10988",
        noising=WORLD_MAP,
    )
)
FSD_2D = register_method(replace(FSD, name="fsd-2d", noising=FIXED))
