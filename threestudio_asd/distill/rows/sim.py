"""Score implicit matching: VSD's two scores under another divergence than Kullback and Leibler's.

    loss = <(D_s - D_phi) / |D_s - D_phi|, D_phi - x_0>,    D = x0(e): D_s of e^s, D_phi of e_phi

(Dive3D, Bai et al. 2025, arXiv:2506.13594, after Luo et al. 2024, arXiv:2410.16794.) With the
critic's score exact its gradient is, in the mean, that of E |D_s(x_t) - D_phi(x_t)| in the renders'
score D_phi, at x_t that are held: the distance of the scores themselves, in x_0 units, in place of
a divergence of the densities. It does not shrink with that distance. It is differentiated through
teacher and critic, as no other row is: a step keeps the activations of three evaluations of the
UNet. The critic is VSD's.

That is the first stage's loss of the official code (026cb40, ``nerf/sd.py``). There w is 1, the
weight sigma^2 sigma / alpha that it computes is never read; the scale is counted from the other
end, e_y + 7.5 (e_y - e_null), 8.5 here; a reward (PickScore) is added; the norm has nothing added,
so that it is undefined where the scores agree. The later stages are VSD.
"""

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.gradient import normalise_gradient
from threestudio_asd.distill.guidance import classifier_free_guidance
from threestudio_asd.distill.losses import register_loss
from threestudio_asd.distill.methods import Method, register_method
from threestudio_asd.distill.predictions import Predictions

_SCORES = ("null", "cond", "critic")


@register_loss("score-implicit-matching", needs=_SCORES, through=_SCORES)
def score_implicit_matching(predictions: Predictions, scale: float) -> Float[Tensor, " B"]:
    """<(D_s - D_phi) / |D_s - D_phi|, D_phi - x_0> of each item."""
    guided = classifier_free_guidance(predictions["null"], predictions["cond"], scale)
    teacher, critic, render = map(
        predictions.x0, (guided, predictions["critic"], predictions.noise)
    )
    direction = normalise_gradient(teacher - critic)
    return (direction * (critic - render)).sum(dim=(1, 2, 3))


SIM = register_method(
    Method(
        name="sim",
        target=None,
        source=None,
        critic_objective="denoise",
        paper="Dive3D, Bai et al. 2025, arXiv:2506.13594",
        loss="score-implicit-matching",
    )
)
