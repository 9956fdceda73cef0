"""Score terms: how the teacher's and the fake network's x_0 move the generator's pictures."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.gradient import distillation_gradient
from threestudio_asd.distill.weighting import WEIGHTINGS
from threestudio_asd.registry import Registry

# The official codes' floor of a weight's denominator.
_LEAST_ERROR = 1e-5


def sid(
    x: Float[Tensor, "B C H W"],
    f_real: Float[Tensor, "B C H W"],
    f_fake: Float[Tensor, "B C H W"],
    alpha: float,
) -> Float[Tensor, " B"]:
    """<f_r - f_f, (f_r - x) - alpha (f_r - f_f)> of each item, without its weight.

    (SiD, Zhou et al. 2024, arXiv:2404.04057.) The gradient flows through x, x_t and both
    networks. With an optimal fake network the expectation is (1 - alpha) E|f_r - f_f|^2, so its
    value says nothing about progress; the gradient at alpha = 1/2 is half that of
    E|f_r - f_f|^2. At alpha = 1 it is <f_r - f_f, f_f - x>.
    """
    gap = f_real - f_fake
    return (gap * (f_real - x - alpha * gap)).sum(dim=(1, 2, 3))


def inverse_error_weight(
    x: Float[Tensor, "B C H W"], f_real: Float[Tensor, "B C H W"]
) -> Float[Tensor, " B"]:
    """1 / mean|x - f_r| of each item, without gradient: SiD's and DMD's weight."""
    error = (x - f_real).detach().abs().mean(dim=(1, 2, 3))
    return 1.0 / error.clamp_min(_LEAST_ERROR)


def dmd_gradient(
    x: Float[Tensor, "B C H W"],
    f_real: Float[Tensor, "B C H W"],
    f_fake: Float[Tensor, "B C H W"],
) -> Float[Tensor, "B C H W"]:
    """(f_f - f_r) / mean|x - f_r|, detached: VSD's e^s - e_phi up to the weight.

    (DMD, Yin et al. 2024, arXiv:2311.18828.) An x_0 is (x_t - sigma e) / alpha, which
    turns the signs around.
    """
    weight = inverse_error_weight(x, f_real).view(-1, 1, 1, 1)
    return distillation_gradient(f_fake, f_real, weight)


def add_distance(
    x: Float[Tensor, "B C H W"],
    f_real: Float[Tensor, "B C H W"],
    c: Float[Tensor, "B 1 1 1"],
) -> Float[Tensor, " B"]:
    """c(t) |x - f_r|^2 of each item; no gradient reaches the teacher or x_t.

    (ADD, Sauer et al. 2023, arXiv:2311.17042.)
    """
    return (c * (x - f_real.detach()).square()).sum(dim=(1, 2, 3))


def noise_free_x0(
    x: Float[Tensor, "B C H W"],
    direction: Float[Tensor, "B C H W"],
    level: Float[Tensor, "B 1 1 1"],
) -> Float[Tensor, "B C H W"]:
    """x - E d: the x_0 of a teacher that differs from the drawn noise by d.

    With d = e_r - n it is f_r; with the noise-free direction of NFSD (Katzir et al. 2023,
    arXiv:2310.17590) it makes of SDS, as ``add_distance``, NFSD.
    """
    return x.detach() - level * direction


DistanceWeight = Callable[[Tensor, Tensor], Tensor]
DISTANCE_WEIGHTS: Registry[DistanceWeight] = Registry("distance weight")


def register_distance_weight(name: str) -> Callable[[DistanceWeight], DistanceWeight]:
    """Decorator: register ``f(alpha, sigma) -> c``, elementwise, under ``name``."""

    def register(function: DistanceWeight) -> DistanceWeight:
        DISTANCE_WEIGHTS.add(name, function)
        return function

    return register


@register_distance_weight("exponential")
def exponential(alpha: Tensor, sigma: Tensor) -> Tensor:
    """alpha: higher noise counts less (ADD's default)."""
    return alpha


@register_distance_weight("sds")
def sds(alpha: Tensor, sigma: Tensor) -> Tensor:
    """alpha w / (2 sigma), with which the gradient is SDS's w (e_r - n), w = sigma^2."""
    return alpha * WEIGHTINGS.get("sds")(alpha**2, sigma**2) / (2.0 * sigma)


#: As SDS's, on ``noise_free_x0`` in place of f_r.
DISTANCE_WEIGHTS.add("nfsd", sds)
#: Those weights whose target is ``noise_free_x0``.
NOISE_FREE = {"nfsd"}
