"""ASD's pair: editing with a discriminator on both sides.

    F = D(z; y) - D(r; x),    D(.; y) = log p(y | .) - log p(phi | .)

    grad = [e^s_y(z_t) - e_phi(z_t; y)] - [e^s_x(r_t) - e_phi(r_t; x)]

    min_phi  E |e_phi(z_t; y) - eps|^2 + gamma |e_phi(z_t; y) - e_y(z_t)|^2
           + E |e_phi(r_t; x) - eps|^2 + gamma |e_phi(r_t; x) - e_x(r_t)|^2

(Adversarial Score Distillation, Wei et al. 2023, arXiv:2312.00739, eq. 11.) z is the edited
picture and y its prompt, r the original and x the source prompt: the batch and the texts of DDS.
There is no code, and the paper says no more than F and that DDS is its case of a fixed
discriminator. What follows from that, and what is decided here:

- D(.; x) is asked about the original. At one and the same picture phi would drop out of F, and what
  is left (e_y - e_x there) would not be DDS.
- A fixed discriminator says the same on both sides, such as SDS's, e_phi = eps: the row is DDS
  then, to the bit. Hence DDS's weight and reduction, and one draw of (t, eps) for both sides.
- There is one phi, as in F; each side's prompt, which the teacher is asked with, tells the critic
  which side it sees. Two networks would cost twice the memory, and nothing in F calls for them.
- Both sides train it, with equal weight, by eq. 10. The original does not move; its half teaches
  the critic what it does not have to see again in the edited picture.
- Algorithm 1 shares the draw between generator and critic: always so here, for a critic's draw of
  its own would be one more pair.

Of a single picture the best critic is known: from x_t and x_0 follows eps, so that e_phi* = (eps +
gamma e_y) / (1 + gamma), and the row is DDS at the scale s' = 1 + (s - 1)(1 + gamma), 1 / (1 +
gamma) times as strong (``rescaled_scale``). Repelling lowers the scale and raises the rate, as in
ASD; what is new is what a critic that lags behind, or knows many pictures, says differently of the
two.
"""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.methods import register_method
from threestudio_asd.distill.predictions import Predictions, register_prediction
from threestudio_asd.distill.rows.dds import DDS, guided_reference
from threestudio_asd.distill.terms import register_source

register_prediction(
    "reference_critic",
    "e_phi with the reference's prompt at the noisy reference",
    at="reference",
    against="reference_cond",
)


@register_source(
    "critic-and-reference",
    needs=("reference_null", "reference_cond", "critic", "reference_critic"),
)
def critic_and_reference(predictions: Predictions) -> Float[Tensor, "B C H W"]:
    """e^s of the reference and its own prompt, and by how much the critic tells the two apart."""
    apart = predictions["critic"] - predictions["reference_critic"]
    return guided_reference(predictions) + apart


ASD_PAIR = register_method(
    replace(
        DDS,
        name="asd-pair",
        source="critic-and-reference",
        critic_objective="asd",
        paper="Adversarial Score Distillation, Wei et al. 2023, arXiv:2312.00739, eq. 11",
    )
)
