"""ISM: the teacher at x_t against the unconditional prediction that led there from x_s.

    grad = (sigma / alpha) (e^s(x_t, t) - e_0(x_s, s)),    x_t = a DDIM step from x_s, s = t - delta

(LucidDreamer, Liang et al. 2023, arXiv:2311.11284, interval score matching.) x_s comes from the
render, noised at a small time, by DDIM inversion under the empty prompt in strides of ``xs_delta``;
x_t is deterministic but for that little noise. ``interval_delta`` shrinks the interval over the
first 1500 steps. What its code does differently:

- times are counted from 1: index i is t = i + 1. The first time is max(s - ``xs_delta``
  ``xs_n_steps``, 1), which is 1 for every t that it draws, so that noise enters at t = 1 alone;
- that noise has ``offset_noise`` of one number per channel added, shared by the batch, as t is.
  Here both are each item's own;
- where x_s is where the noise came in, it asks the network about a step that leads nowhere; that
  evaluation is left out here;
- delta is rounded down without perp-neg, as here, and up with it; its perp-neg has weights of its
  own, and its teacher is taken to state epsilon, whatever it states;
- the null of e^s is the negative prompt, that of the inversion the empty one, so that the
  difference holds e_n - e_0, too;
- the gradient is the sum over the views of a batch, with neither 1 / B nor a mean, times
  ``lambda_guidance`` (0.1): that is ``loss.lambda_asd`` here. Its loss value is the constant 1.
"""

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.inversion import ddim_step, follow, levels
from threestudio_asd.distill.methods import Method, register_method
from threestudio_asd.distill.noising import NoisyBatch, Predict, Views, register_noising
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.distill.schedule import Times
from threestudio_asd.distill.terms import register_source
from threestudio_asd.errors import UserError

#: The first time of an inversion; the network was not trained below.
FIRST = 1


def interval_times(s: int, stride: int, n: int) -> list[int]:
    """The times from where the noise comes in up to ``s``: ``n`` strides at most, the last shorter.

    Example:
        >>> interval_times(406, stride=200, n=5)
        [1, 201, 401, 406]
    """
    start = max(s - stride * n, FIRST)
    return [*range(start, s, stride), s]


@register_noising(
    "interval",
    asks=("empty",),
    adds=("before", "inverted"),
    settings={
        "interval_delta": [0, 100, 80, 1500],
        "xs_delta": 200,
        "xs_n_steps": 5,
        "offset_noise": 0.1,
    },
)
def interval(x0: Float[Tensor, "B C H W"], t: Times, views: Views, predict: Predict) -> NoisyBatch:
    """x_t by inversion from x_s; ``before`` is x_s, ``inverted`` e_0(x_s, s).

    Raises:
        UserError: A stride or a number of them that leads nowhere, or a teacher without numbered
            levels.
    """
    schedule, settings = levels(predict.schedule), predict.settings
    delta, stride, n = (int(settings[k]) for k in ("interval_delta", "xs_delta", "xs_n_steps"))
    if delta < 0 or stride < 1 or n < 0:
        raise UserError(
            f"interval_delta and xs_n_steps must be at least 0 and xs_delta at least 1; got "
            f"{delta}, {n} and {stride}."
        )
    t = t.clamp_min(FIRST)
    s = (t - delta).clamp_min(FIRST)
    paths = [interval_times(time, stride, n) for time in s.tolist()]
    noise, offset = predict.draws.normal(x0), settings["offset_noise"]
    if offset:
        noise = noise + offset * predict.draws.normal(x0[:, :, :1, :1])
    start = t.new_tensor([path[0] for path in paths])

    def ask(x: Tensor, at: Tensor, items: Tensor) -> Tensor:
        return predict("empty", x, at, items)

    x_s = follow(schedule, schedule.add_noise(x0, noise, start), paths, ask)
    inverted = predict("empty", x_s, s)
    x_t = ddim_step(schedule, x_s, inverted, s, t)
    return NoisyBatch.reaching(schedule, x0, x_t, t, {"before": x_s, "inverted": inverted})


@register_source("inverted", needs=("inverted",))
def inverted_source(predictions: Predictions) -> Float[Tensor, "B C H W"]:
    """e_0(x_s, s), what led from x_s to x_t."""
    return predictions["inverted"]


ISM = register_method(
    Method(
        name="ism",
        target="guided",
        source="inverted",
        critic_objective=None,
        paper="LucidDreamer, Liang et al. 2023, arXiv:2311.11284",
        noising="interval",
        weighting="asd",
        reduction="sum",
    )
)
