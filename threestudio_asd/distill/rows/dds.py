"""DDS: editing a picture, SDS minus the SDS that would leave the original where it is.

    grad = e_null(z_t) + s (e_y(z_t) - e_null(z_t)) - [e_null(r_t) + s (e_src(r_t) - e_null(r_t))]

(Delta Denoising Score, Hertz et al. 2023, arXiv:2304.07090.) z is the edited picture, y its prompt;
r the original, ``reference`` of the batch, whose prompt is
``system.guidance.texts.reference_cond``. Both are noised with one eps and one t. Where picture and
prompt are the original's, it is 0. The four predictions are one batch.

Its notebook divides the loss by H W alone, neither by batch nor by channels, and multiplies it by
2000 for SGD at a rate of 0.1 (t in 50..948, Stable Diffusion 1.5): the reduction "pixel" here. The
original never moves, and z starts at the mean of the encoder's posterior. A weight alpha^a sigma^b
is there and off (a = b = 0). Perp-neg, which it does not know, would move e_y alone.
"""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.guidance import classifier_free_guidance
from threestudio_asd.distill.methods import Method, register_method
from threestudio_asd.distill.noising import NoisyBatch, Predict, Views, register_noising
from threestudio_asd.distill.predictions import MISSING, Predictions, register_prediction
from threestudio_asd.distill.schedule import Times
from threestudio_asd.distill.terms import register_source
from threestudio_asd.errors import UserError

register_prediction("reference_null", "e_null at the noisy reference", at="reference", like="null")
register_prediction(
    "reference_cond",
    "the teacher with the reference's prompt at the noisy reference",
    words=MISSING,
    at="reference",
)


@register_noising("paired", adds=("reference",))
def paired(x0: Float[Tensor, "B C H W"], t: Times, views: Views, predict: Predict) -> NoisyBatch:
    """The render and its reference with the same noise.

    Raises:
        UserError: The batch has no reference, or one of another shape.
    """
    if views.reference is None or views.reference.shape != x0.shape:
        has = "no reference" if views.reference is None else f"{tuple(views.reference.shape)}"
        raise UserError(
            f"An edit compares latents of shape {tuple(x0.shape)} with those of the original, and "
            f"the batch has {has}: give the original picture as its 'reference'."
        )
    noisy = NoisyBatch.of(predict.schedule, x0, t, predict.draws.normal(x0))
    reference = predict.schedule.add_noise(views.reference, noisy.noise, t)
    return replace(noisy, extras={"reference": reference})


@register_source("guided-reference", needs=("reference_null", "reference_cond"))
def guided_reference(predictions: Predictions) -> Float[Tensor, "B C H W"]:
    """e^s of the reference and its own prompt."""
    null, cond = predictions["reference_null"], predictions["reference_cond"]
    return classifier_free_guidance(null, cond, predictions.scale)


DDS = register_method(
    Method(
        name="dds",
        target="guided",
        source="guided-reference",
        critic_objective=None,
        paper="Delta Denoising Score, Hertz et al. 2023, arXiv:2304.07090",
        noising="paired",
        weighting="uniform",
        reduction="pixel",
    )
)
