"""DSD: renders follow a path of samples that one noise of their own begins.

    grad = w(t) (e^s(x_t, t) - e^k(x_r, r)),    x_u = alpha_u x_0 + sigma_u e(r),    r >= t

(Diverse Score Distillation, Xu et al. 2024, arXiv:2412.06780.) e(r) is the guided prediction at r
on the DDIM path that begins at the run's one noise; the render, which need not lie on that path, is
noised with it at both times. Another seed is another path, hence another result. As t falls the
render follows the path: at k = s one that is the path's denoised picture at r gets the change of
the prediction from r to t for its gradient, and none at r = t.

The path is computed anew in every step, under the words of the step's views, in up to ``dsd_steps``
strides from pure noise. The numbers are the official code's (169c35a): r - t is drawn up to
``dsd_ahead`` (t - ``dsd_from``), 320 being the last t of its schedule; k, ``dsd_source_scale``, is
1 with perp-neg, which its configuration has on, and would be 2 without, where that code counts from
the other end. Its t falls from 980 to 320 with the root of the steps.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.inversion import follow, levels
from threestudio_asd.distill.methods import Method, register_method
from threestudio_asd.distill.noise_fields import FIXED, FieldPredict, field_noise
from threestudio_asd.distill.noising import NOISINGS, NoisyBatch, Views, register_noising
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.distill.rows.paths.sdi import guided
from threestudio_asd.distill.schedule import Times
from threestudio_asd.distill.terms import register_source
from threestudio_asd.errors import UserError


def path_times(r: int, last: int, n: int) -> list[int]:
    """The times of a path: ``n`` equal strides from ``last`` to 0, as far as above ``r``, and r.

    Example:
        >>> path_times(640, last=999, n=10)
        [999, 899, 799, 699, 640]
    """
    grid = torch.linspace(last, 0, n + 1).long().tolist()
    return [*(time for time in grid if time > r), r]


@register_noising(
    "sampled-path",
    asks=("null", "cond"),
    adds=("ahead",),
    settings={
        **NOISINGS.get(FIXED).settings,
        "dsd_steps": 10,
        "dsd_ahead": 0.1,
        "dsd_from": 320,
        "dsd_source_scale": 1.0,
    },
    field=FIXED,
)
def sampled_path(
    x0: Float[Tensor, "B C H W"], t: Times, views: Views, predict: FieldPredict
) -> NoisyBatch:
    """x_t with the path's prediction at r as its noise; ``ahead`` is e^k(x_r, r).

    Raises:
        UserError: ``dsd_steps`` is below 1 or ``dsd_ahead`` negative, or the teacher has no
            numbered levels.
    """
    schedule, settings = levels(predict.schedule), predict.settings
    n, share, last = int(settings["dsd_steps"]), settings["dsd_ahead"], schedule.last_step
    if n < 1 or share < 0:
        raise UserError(
            f"dsd_steps must be at least 1 and dsd_ahead must not be negative; got {n} and {share}."
        )
    group = predict.views_at_once
    drawn = predict.draws.uniform(len(t) // group, t.device).repeat_interleave(group)
    ahead = (share * (t - settings["dsd_from"])).clamp_min(0.0)
    r = (t + (drawn * ahead).long()).clamp(1, last)

    def ask(x: Tensor, at: Tensor, items: Tensor) -> Tensor:
        return guided(predict, x, at, predict.scale, items)

    begin = field_noise(x0, t, views, predict).noise
    paths = [path_times(time, last, n) for time in r.tolist()]
    noise = guided(predict, follow(schedule, begin, paths, ask), r, predict.scale)
    x_r = schedule.add_noise(x0, noise, r)
    found = guided(predict, x_r, r, settings["dsd_source_scale"])
    return replace(NoisyBatch.of(schedule, x0, t, noise), extras={"ahead": found})


@register_source("ahead", needs=("ahead",))
def ahead_source(predictions: Predictions) -> Float[Tensor, "B C H W"]:
    """e^k(x_r, r)."""
    return predictions["ahead"]


DSD = register_method(
    Method(
        name="dsd",
        target="guided",
        source="ahead",
        critic_objective=None,
        paper="Diverse Score Distillation, Xu et al. 2024, arXiv:2412.06780",
        noising="sampled-path",
    )
)
