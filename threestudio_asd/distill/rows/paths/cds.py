"""CDS: the guided prediction against the one that it leads to, a little further down the flow.

    grad = w(t) (e^s(x_t, t) - e^s(x_t', t')),    x_t' = the DDIM step from x_t to t' < t

(Consistent3D, Wu et al. 2024, arXiv:2401.09050, consistency distillation sampling.) One noise
serves all steps and views. With lambda = sigma / alpha the difference is
(D(x_t') - D(x_t)) / lambda', of the denoised pictures D at both times: what training a consistency
model compares. Where SDS asks a render to agree with its denoised self, this asks two denoised
renders to agree.

As in the official code (9118a5c) the times that a config draws are t', and t lies ``cds_gap`` to
``cds_gap`` + ``cds_spread`` above. That code's t' falls from 700 to 100 with the root of 3000
steps, its scale from 100 to 50, counted from the other end; w is 1 in the first stage; it clamps
the gradient to 2 and later 8 (``grad_clip``) and knows no perp-neg.

Nothing in it asks the render itself to be clean: of a Gaussian prompt with the mean m, at s = 1,
the gradient is 0 where x_t = alpha m, hence x_0 = m - lambda n. A picture can take that noise in; a
scene, all of whose views are given the same, hardly can.
"""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.inversion import ddim_step, levels
from threestudio_asd.distill.methods import Method, register_method
from threestudio_asd.distill.noise_fields import FIXED, FieldPredict, field_noise
from threestudio_asd.distill.noising import NOISINGS, NoisyBatch, Views, register_noising
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.distill.rows.paths.sdi import guided
from threestudio_asd.distill.schedule import Times
from threestudio_asd.distill.terms import register_source, register_target
from threestudio_asd.errors import UserError


@register_noising(
    "two-levels",
    asks=("null", "cond"),
    adds=("here", "further"),
    settings={**NOISINGS.get(FIXED).settings, "cds_gap": 100, "cds_spread": 200},
    field=FIXED,
)
def two_levels(
    x0: Float[Tensor, "B C H W"], t: Times, views: Views, predict: FieldPredict
) -> NoisyBatch:
    """x_t above the drawn times; ``here`` is e^s(x_t, t), ``further`` e^s(x_t', t').

    Raises:
        UserError: A gap that leads nowhere, or a teacher without numbered levels.
    """
    schedule, settings = levels(predict.schedule), predict.settings
    gap, spread, last = int(settings["cds_gap"]), settings["cds_spread"], schedule.last_step
    if not 1 <= gap <= last or spread < 0:
        raise UserError(
            f"cds_gap must lie in 1..{last} and cds_spread must not be negative; got {gap} and "
            f"{spread:g}."
        )
    group = predict.views_at_once
    drawn = predict.draws.uniform(len(t) // group, t.device).repeat_interleave(group)
    to = t.clamp_max(last - gap)
    t = (to + gap + (drawn * spread).long()).clamp_max(last)
    noisy = field_noise(x0, t, views, predict)
    here = guided(predict, noisy.x_t, t, predict.scale)
    x_to = ddim_step(schedule, noisy.x_t, here, t, to)
    return replace(
        noisy, extras={"here": here, "further": guided(predict, x_to, to, predict.scale)}
    )


@register_target("here", needs=("here",))
def here_target(predictions: Predictions, scale: float) -> Float[Tensor, "B C H W"]:
    """e^s(x_t, t)."""
    return predictions["here"]


@register_source("further", needs=("further",))
def further_source(predictions: Predictions) -> Float[Tensor, "B C H W"]:
    """e^s(x_t', t')."""
    return predictions["further"]


CDS = register_method(
    Method(
        name="cds",
        target="here",
        source="further",
        critic_objective=None,
        paper="Consistent3D, Wu et al. 2024, arXiv:2401.09050",
        noising="two-levels",
        weighting="uniform",
    )
)
