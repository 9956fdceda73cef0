"""JSD: SDI whose render is also drawn to what the teacher makes of its first answer.

    grad = (sigma / alpha) [(e^s(x_t) - kappa) + k (e_twice - kappa)]
         = (x_0 - D_1) + k (x_0 - D_2)

    D_1 = x0(e^s(x_t, t)),    D_2 = x0(e^s(y_t, t)),    y_t = alpha D_1 + sigma eps

(Text-to-3D Generation using Jensen-Shannon Score Distillation, Do and Hua 2025, arXiv:2503.10660.)
x_t and kappa come from SDI's inversion; D_1 is noised afresh, to the same t, and denoised again:
the authors' estimate of the generator's gradient under a GAN's loss with a log-odds discriminator.
k is the setting ``jsd_scale``; at 0 this is SDI.

The formula is that of the official code (0aaccda): its YAML has k = 1 from the first step and
scales of 13.5 and -13.5, its class k = 0.3 from step 2000. As SDI's, it counts scales from the
other end without perp-neg, takes t from ``max_step_percent`` down to ``min_step_percent`` over
10000 steps, overshoots t, and takes the mean over all entries, with one more 1 / B.
"""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.methods import Method, register_method
from threestudio_asd.distill.noising import NOISINGS, NoisyBatch, Predict, Views, register_noising
from threestudio_asd.distill.prediction_types import from_epsilon, to_epsilon
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.distill.rows.paths.sdi import ddim_inversion, guided
from threestudio_asd.distill.schedule import Times
from threestudio_asd.distill.terms import register_source, register_target

_INVERSION = NOISINGS.get("ddim-inversion")


@register_noising(
    "denoised-twice",
    asks=_INVERSION.asks,
    adds=("once", "twice"),
    settings=_INVERSION.settings,
)
def denoised_twice(
    x0: Float[Tensor, "B C H W"], t: Times, views: Views, predict: Predict
) -> NoisyBatch:
    """x_t by SDI's inversion; ``once`` is e^s, ``twice`` the epsilon that makes D_2 of x_t."""
    # Before the inversion, whose draws are as many as an item's steps.
    fresh, schedule = predict.draws.normal(x0), predict.schedule
    noisy = ddim_inversion(x0, t, views, predict)
    once = guided(predict, noisy.x_t, t, predict.scale)
    first = from_epsilon(schedule, once, noisy.x_t, t, "sample")
    y_t = schedule.add_noise(first, fresh, t)
    second = from_epsilon(schedule, guided(predict, y_t, t, predict.scale), y_t, t, "sample")
    twice = to_epsilon(schedule, second, noisy.x_t, t, "sample")
    return replace(noisy, extras={"once": once, "twice": twice})


@register_target("jensen-shannon", needs=("once", "twice"), settings={"jsd_scale": 1.0})
def jensen_shannon_target(predictions: Predictions, scale: float) -> Float[Tensor, "B C H W"]:
    """e^s(x_t) + k e_twice."""
    return predictions["once"] + predictions.settings["jsd_scale"] * predictions["twice"]


@register_source("jensen-shannon", needs=(), settings={"jsd_scale": 1.0})
def jensen_shannon_source(predictions: Predictions) -> Float[Tensor, "B C H W"]:
    """(1 + k) kappa."""
    return (1.0 + predictions.settings["jsd_scale"]) * predictions.noise


JSD = register_method(
    Method(
        name="jsd",
        target="jensen-shannon",
        source="jensen-shannon",
        critic_objective=None,
        paper="Jensen-Shannon Score Distillation, Do and Hua 2025, arXiv:2503.10660",
        noising="denoised-twice",
        weighting="asd",
        reduction="mean",
    )
)
