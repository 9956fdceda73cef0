"""LMC-SDS: SDS without what the teacher does to any picture, whatever it shows.

    grad = w(t) (e^s - S),    S = (x_t - alpha b(x_0, t)) / sigma

(Score Distillation Sampling with Learned Manifold Corrective, Alldieck et al. 2024,
arXiv:2401.05293.) Where SDS compares the denoised render with the render itself, and so takes
the teacher's blur at large t for advice, this compares it with b, a shallow network's guess of what
the teacher makes of x_0 at t: in x_0 units, w = sigma / alpha, the gradient is b(x_0, t) - x0(e^s).
A low scale will do, as the prompt's share need not drown that blur. b is trained once, on pictures
as the teacher knows them, and frozen; with the identity for b this is SDS.

There is no public code. That a shallow network mimics the teacher's frequency bias at each t, that
it is subtracted and that the scale is low is the paper's; the rest is this package's reading:

- b minimises the mean squared error to the teacher's denoised x_t over clean latents x_0, times and
  noise, so that it tends to the mean over the noise;
- the teacher is asked without a prompt. b knows none, and e^s = e_null + s (e_y - e_null): what b
  takes away is e_null's share, the prompt's stays as it is;
- b = x_0 + r with a small r, in the model's folder ``corrective`` (``teachers.unet``); size, data
  and steps are those of ``tiny.train.corrective``; w is sigma^2, SDS's.

A b that is right for *every* x_0 would leave s (e_y - e_null) alone in the mean over the noise, the
classifier's part of CSD. What lies between is b's error on renders that are no pictures yet: the
teacher's pull towards those that it knows.
"""

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.methods import Method, register_method
from threestudio_asd.distill.predictions import Predictions, register_prediction
from threestudio_asd.distill.terms import register_source

register_prediction(
    "corrective", "what b(x_0, t) says, the teacher's small network for clean latents"
)


@register_source("corrective", needs=("corrective",))
def corrective_source(predictions: Predictions) -> Float[Tensor, "B C H W"]:
    """The epsilon that makes b(x_0, t) of x_t."""
    return predictions["corrective"]


LMC_SDS = register_method(
    Method(
        name="lmc-sds",
        target="guided",
        source="corrective",
        critic_objective=None,
        paper="LMC-SDS, Alldieck et al. 2024, arXiv:2401.05293",
    )
)
