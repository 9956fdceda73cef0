"""SDI: SDS whose noise is what DDIM inversion finds in the render.

    grad = (sigma / alpha) (e^s(x_t) - kappa),    kappa = (x_t - alpha x_0) / sigma

(Score Distillation via Reparametrized DDIM, Lukoianov et al. 2024, arXiv:2405.15891.) x_t comes
from x_0 by ``inversion_n_steps`` strides of DDIM inversion under the guidance scale
``inversion_guidance_scale`` < 0, which undo what sampling at its opposite would do. In x_0 units
the gradient is x_0 minus the denoised x_t: with kappa the prediction of the step before and x_0 its
denoised picture, following it is DDIM sampling.

``inversion_exact`` ends the inversion at t, as the paper reads. The default is the official code's
(threestudio, 28d9d80), which

- goes on to t plus a draw below one stride and takes what it reaches for x_t all the same, asking
  the teacher about it at t. (Its comment promises to carry the noise back to t; that one serves
  pictures only. It changes a result by 2 to 44 % of its largest entry.)
- starts one stride before the grid 1, 1 + stride, ...: the network is asked at t = -99, with the
  level of t = 0. ``inversion_from_zero`` asks at 0 instead.
- adds ``inversion_eta`` sqrt(V) of fresh noise to each step without shortening the step for it, so
  that the variance grows;
- counts both guidance scales from the other end, e_y + k (e_y - e_null), unless perp-neg is on: 7.5
  and -7.5 there are 8.5 and -6.5 here without perp-neg (``convert_threestudio_sds_scale``);
- takes the mean over all entries for its loss, so that the gradient is 1 / (B C H W) of the
  difference; and batches of one. Here each item has its own t, and those that still go on are asked
  about together.

``sdi-drawn`` is the same with drawn noise in place of the inversion: SDS in x_0 units.
"""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.guidance import classifier_free_guidance
from threestudio_asd.distill.inversion import follow, levels
from threestudio_asd.distill.methods import Method, register_method
from threestudio_asd.distill.noising import NoisyBatch, Predict, Views, register_noising
from threestudio_asd.distill.schedule import NoiseSchedule, Times
from threestudio_asd.errors import UserError


def inversion_times(t: int, last: int, stride: int, n: int, from_zero: bool) -> list[int]:
    """The times of an inversion: one before the grid, the grid's below ``t``, and ``last``.

    Example:
        >>> inversion_times(230, 280, stride=100, n=10, from_zero=False)
        [-99, 1, 101, 201, 280]
    """
    grid = [time for time in range(1, 1 + n * stride, stride) if time < t]
    return [0 if from_zero else 1 - stride, *grid, last]


def guided(
    predict: Predict,
    x_t: Float[Tensor, "N C H W"],
    t: Times,
    scale: float,
    items: Tensor | None = None,
) -> Float[Tensor, "N C H W"]:
    """e^s at (x_t, t) of the batch's ``items``, by default of all."""
    said = predict.together(("null", "cond"), x_t, t, items)
    return classifier_free_guidance(said["null"], said["cond"], scale)


def step_noise(schedule: NoiseSchedule, t: Times, to: Times) -> Float[Tensor, "B 1 1 1"]:
    """sqrt(V), the standard deviation that a step of DDPM from ``to`` back to ``t`` has.

    V = sigma_t^2 / sigma_to^2 (sigma_to^2 - alpha_to^2 / alpha_t^2 sigma_t^2)    (Song et al. 2020,
    arXiv:2010.02502, eq. 16 at eta = 1.)
    """
    ratio = schedule.signal(to) / schedule.signal(t)
    left = schedule.noise(to) - ratio * schedule.noise(t)
    return (schedule.noise(t) / schedule.noise(to) * left.clamp_min(0.0)).sqrt()


@register_noising(
    "ddim-inversion",
    asks=("null", "cond"),
    settings={
        "inversion_guidance_scale": -7.5,
        "inversion_n_steps": 10,
        "inversion_eta": 0.3,
        "inversion_exact": 0,
        "inversion_from_zero": 0,
    },
)
def ddim_inversion(
    x0: Float[Tensor, "B C H W"], t: Times, views: Views, predict: Predict
) -> NoisyBatch:
    """x_t by inversion, and kappa as its noise.

    Raises:
        UserError: ``inversion_n_steps`` is not between 1 and the number of levels, or the teacher
            has no numbered levels.
    """
    schedule, settings, draws = levels(predict.schedule), predict.settings, predict.draws
    n, count = int(settings["inversion_n_steps"]), schedule.num_timesteps
    if not 1 <= n <= count:
        raise UserError(f"inversion_n_steps must lie in 1..{count}; got {n}.")
    last = t
    if not settings["inversion_exact"]:
        group = predict.views_at_once
        further = (draws.uniform(len(t) // group, t.device) * count / n).long()
        last = (t + further.repeat_interleave(group)).clamp_max(schedule.last_step)
    ends = zip(t.tolist(), last.tolist(), strict=True)
    from_zero = bool(settings["inversion_from_zero"])
    paths = [inversion_times(*both, count // n, n, from_zero) for both in ends]
    scale, eta = settings["inversion_guidance_scale"], settings["inversion_eta"]

    def ask(x_t: Tensor, at: Tensor, items: Tensor) -> Tensor:
        return guided(predict, x_t, at, scale, items)

    def fresh(at: Tensor, to: Tensor, items: Tensor) -> Tensor:
        return eta * step_noise(schedule, at, to).to(x0) * draws.normal(x0)[items]

    x_t = follow(schedule, x0, paths, ask, fresh if eta else None)
    return NoisyBatch.reaching(schedule, x0, x_t, t)


SDI = register_method(
    Method(
        name="sdi",
        target="guided",
        source="noise",
        critic_objective=None,
        paper="Score Distillation via Reparametrized DDIM, Lukoianov et al. 2024, arXiv:2405.15891",
        noising="ddim-inversion",
        weighting="asd",
        reduction="mean",
    )
)
SDI_DRAWN = register_method(replace(SDI, name="sdi-drawn", noising="gaussian"))
