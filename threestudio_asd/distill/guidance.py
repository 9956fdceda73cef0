"""Classifier-free guidance, perp-neg and guidance rescale: the target of a distillation step.

One definition of the guidance scale s holds in this package,

    e^s = e_null + s (e_y - e_null),

so that s = 1 is the plain conditional prediction. threestudio's SDS counts from the other end; its
config value is converted once (``convert_threestudio_sds_scale``).
"""

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError

# Keeps the projection finite where the direction vanishes (threestudio's value).
_MIN_SQUARED_NORM = 1e-6
# Keeps the ratio of two deviations finite where nothing deviates (MVDream's value).
_MIN_STD = 1e-8


def classifier_free_guidance(
    e_null: Float[Tensor, "B C H W"], e_cond: Float[Tensor, "B C H W"], scale: float
) -> Float[Tensor, "B C H W"]:
    """e_null + s (e_cond - e_null)    (Ho & Salimans 2022, arXiv:2207.12598, eq. 6, s = 1 + w)."""
    return e_null + scale * (e_cond - e_null)


def convert_threestudio_sds_scale(scale: float, perp_neg: bool = False) -> float:
    """The s of this package for a ``guidance_scale`` of threestudio's SDS guidance.

    It computes e_y + g (e_y - e_null), hence s = g + 1; with perp-neg, in the same function,
    e_null + g (...), hence s = g. (Its VSD guidance, and the ASD fork, mean s throughout.)
    """
    return scale if perp_neg else scale + 1.0


def threestudio_sds_scale(scale: float) -> float:
    """The ``guidance_scale`` of threestudio's SDS guidance, without perp-neg, for our s: s - 1."""
    return scale - 1.0


def perpendicular_component(
    x: Float[Tensor, "B C H W"], y: Float[Tensor, "B C H W"]
) -> Float[Tensor, "B C H W"]:
    """x - (<x, y> / <y, y>) y for each item of the batch; x itself where y = 0."""
    # Sums over a whole latent leave the range of half precision.
    dot = (x.float() * y.float()).sum(dim=(1, 2, 3), keepdim=True)
    squared_norm = y.float().square().sum(dim=(1, 2, 3), keepdim=True)
    return x - (dot / squared_norm.clamp_min(_MIN_SQUARED_NORM)).to(x) * y


def perp_neg(
    cond: Float[Tensor, "B C H W"],
    negatives: Float[Tensor, "B K C H W"],
    weights: Float[Tensor, "B K"],
    origin: Float[Tensor, "B C H W"] | None,
) -> Float[Tensor, "B C H W"]:
    """The condition, moved away from the negatives across its own direction.

        e_y' = e_y + sum_k w_k perp(e_k - o, e_y - o)

    (Armandpour et al. 2023, arXiv:2304.04968.) With the origin o = e_null the directions are
    guidance directions, as in the paper; ``None`` is o = 0, which projects raw predictions, as the
    official ASD code does in its gamma term. Weights carry their sign: threestudio's are <= 0.
    """
    direction = cond if origin is None else cond - origin
    moved = cond
    for k in range(negatives.shape[1]):
        negative = negatives[:, k] if origin is None else negatives[:, k] - origin
        weight = weights[:, k].to(cond).view(-1, 1, 1, 1)
        moved = moved + weight * perpendicular_component(negative, direction)
    return moved


def guidance_rescale(
    guided: Float[Tensor, "B C H W"],
    cond: Float[Tensor, "B C H W"],
    rescale: float,
    views: int = 1,
) -> Float[Tensor, "B C H W"]:
    """Pull the standard deviation of the guided prediction back towards the conditional one's.

        e' = phi (std(e_y) / std(e^s)) e^s + (1 - phi) e^s

    (Lin et al. 2023, arXiv:2305.08891, sec. 3.4; std over each item.)

    Args:
        guided, cond: Predictions of one kind; the paper's are those of the noise, MVDream's of x_0.
        rescale: phi in [0, 1]; 0 returns ``guided`` itself, the paper recommends 0.7.
        views: How many items, one after the other, are measured and scaled together.

    Raises:
        UserError: ``rescale`` lies outside [0, 1].
    """
    if not 0.0 <= rescale <= 1.0:
        raise UserError(
            f"guidance_rescale, or recon_std_rescale, must lie in [0, 1]; got {rescale}."
        )
    if rescale == 0.0:
        return guided
    ratio = (_std(cond, views) + _MIN_STD) / (_std(guided, views) + _MIN_STD)
    return guided * (rescale * ratio + 1.0 - rescale).to(guided)


def _std(x: Float[Tensor, "B C H W"], views: int) -> Float[Tensor, "B 1 1 1"]:
    """Over each ``views`` items."""
    groups = x.float().unflatten(0, (-1, views)).flatten(1)
    return groups.std(dim=1).repeat_interleave(views).view(-1, 1, 1, 1)
