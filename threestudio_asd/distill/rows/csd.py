"""CSD: the classifier's part of SDS alone, and away from two more prompts.

    grad = w(t) (c e_y + u e_n + z e_0 + m eps + p P),    P = e_y' - e_y

(Classifier Score Distillation, Yu et al. 2023, arXiv:2310.19415.) c, u, z, m and p are the settings
``cond_scale``, ``negative_scale``, ``null_scale``, ``noise_scale`` and ``perpneg_scale``; the
guidance scale is not read. P is perp-neg's repulsion, a term with a scale of its own here and no
part of the guidance; without perp-neg it is 0. Values that recover other methods: (k, 1 - k, 0, -1)
is SDS at k (p = k), (1, -1, 0, 0) e_y - e_n, the classifier's score alone.

The defaults are those of the published second stage (Stable Diffusion, t in 20..500): the negative
prompt loses half of its weight to the empty one within 10000 steps. Where the user gives no
negative prompt it is the published one (``negative_prompt``): without one e_n is e_0; to do without
set ``negative_scale`` to 0. Its first stage, a DeepFloyd IF
model on pixels: ``negative_scale=[0, 0, -1, 5000]``, ``null_scale=[0, -1, 0, 5000]``,
``weighting_strategy=uniform``, ``normalise_gradient=true``. Its code

- weights the second stage by sigma^2, hard-coded, where the paper names no weight;
- divides the first stage's gradient by the norm of the whole batch; here each item has a norm of
  its own, so that batches are their items. The loss is then constant and w without effect;
- pairs perp-neg's latents and negatives by different orders in batches of more than one.
"""

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.methods import Method, register_method
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.distill.terms import register_source, register_target


@register_target(
    "weighted-cond", needs=("cond", "perpneg"), settings={"cond_scale": 1.0, "perpneg_scale": 3.0}
)
def weighted_cond(predictions: Predictions, scale: float) -> Float[Tensor, "B C H W"]:
    """c e_y + p (e_y' - e_y)."""
    c, p = (predictions.settings[name] for name in ("cond_scale", "perpneg_scale"))
    return c * predictions["cond"] + (p - c) * predictions["perpneg"]


@register_source(
    "weighted-negatives",
    needs=("null", "empty"),
    settings={
        "negative_scale": [0, -1.0, -0.5, 10000],
        "null_scale": [0, 0.0, -0.5, 10000],
        "noise_scale": 0.0,
    },
)
def weighted_negatives(predictions: Predictions) -> Float[Tensor, "B C H W"]:
    """-(u e_n + z e_0 + m eps)."""
    names = ("negative_scale", "null_scale", "noise_scale")
    u, z, m = (predictions.settings[name] for name in names)
    return -(u * predictions["null"] + z * predictions["empty"] + m * predictions.noise)


CSD = register_method(
    Method(
        name="csd",
        target="weighted-cond",
        source="weighted-negatives",
        critic_objective=None,
        paper="Classifier Score Distillation, Yu et al. 2023, arXiv:2310.19415",
        negative_prompt="oversaturated color, ugly, tiling, low quality, noisy",
    )
)
