"""SDS-Bridge: from what the render looks like to what it should, both named by prompts.

    grad = w(t) k (e_target - e_source)

(Rethinking Score Distillation as a Bridge Between Image Distributions, McAllister et al. 2024,
arXiv:2406.09417.) The source prompt is the user's with the faults of distilled pictures, the target
prompt the user's with praise; ``system.guidance.texts`` words both. k is the setting
``bridge_scale``; the guidance scale is not read, and neither is perp-neg. It is a second stage: SDS
first.

    2D  method={0: sds, 500: sds-bridge}           guidance_scale=40
    3D  method={0: sds, 20000: sds-bridge-3d}      guidance_scale=100

``sds-bridge`` has the 2D code's k = 40 and sigma^2 and its words, ``sds-bridge-3d`` the 3D
configuration's k = 1 and w = 1, where the target is "{prompt}, ." and the source as in 2D.
``sds-bridge-first`` is SDS as the 3D code's first stage has it, with sigma^2 inside:

    grad = w(t) c sigma^2 (e^s - eps)

At w = 1 and c = 1, the settings of its configuration, it is the row ``sds``. What its code does
differently:

- the 2D optimiser is handed w k (...) itself while the printed loss is a mean; t is odd, from a
  grid of 500; stage one is SDS at a scale of 40;
- in 3D the target prompt, "{prompt}, .", already stands in for the prompt in stage one, which is
  multiplied by sigma^2 before the weighting is (sigma^4 under "sds"); the stage changes at equality
  with step 20000, so that a run which is resumed later falls back to stage one; batches of more
  than one item are paired wrongly or fail.
"""

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.guidance import classifier_free_guidance
from threestudio_asd.distill.methods import Method, register_method
from threestudio_asd.distill.predictions import Predictions, register_prediction
from threestudio_asd.distill.terms import register_source, register_target

PAPER = "SDS-Bridge, McAllister et al. 2024, arXiv:2406.09417"

register_prediction(
    "bridge_source",
    "the teacher with the prompt and the faults of distilled pictures",
    words="{prompt}, oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, "
    "bad structure, noisy, malformed",
)
register_prediction(
    "bridge_target",
    "the teacher with the prompt and praise",
    words="{prompt}, detailed high resolution, high quality, sharp",
)


@register_target(
    "bridge", needs=("bridge_source", "bridge_target"), settings={"bridge_scale": 40.0}
)
def bridge_target(predictions: Predictions, scale: float) -> Float[Tensor, "B C H W"]:
    """e_source + k (e_target - e_source)."""
    source, target = (predictions[f"bridge_{end}"] for end in ("source", "target"))
    return classifier_free_guidance(source, target, predictions.settings["bridge_scale"])


@register_source("bridge", needs=("bridge_source",))
def bridge_source(predictions: Predictions) -> Float[Tensor, "B C H W"]:
    """e_source."""
    return predictions["bridge_source"]


@register_target("sds-bridge-first", needs=("null", "cond"), settings={"stage_one_weight": 1.0})
def first_target(predictions: Predictions, scale: float) -> Float[Tensor, "B C H W"]:
    """eps + c sigma^2 (e^s - eps), c being the setting ``stage_one_weight``."""
    guided = classifier_free_guidance(predictions["null"], predictions["cond"], scale)
    variance = predictions.schedule.noise(predictions.t).to(guided)
    factor = predictions.settings["stage_one_weight"] * variance
    return predictions.noise + factor * (guided - predictions.noise)


SDS_BRIDGE = register_method(
    Method(name="sds-bridge", target="bridge", source="bridge", critic_objective=None, paper=PAPER)
)

SDS_BRIDGE_3D = register_method(
    Method(
        name="sds-bridge-3d",
        target="bridge",
        source="bridge",
        critic_objective=None,
        paper=PAPER,
        settings={"bridge_scale": 1.0},
        weighting="uniform",
    )
)

SDS_BRIDGE_FIRST = register_method(
    Method(
        name="sds-bridge-first",
        target="sds-bridge-first",
        source="noise",
        critic_objective=None,
        paper=PAPER,
        weighting="uniform",
    )
)
