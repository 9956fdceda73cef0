"""DDIM's deterministic step, and paths of such steps: from a render up to its noisy latents.

    x_t' = alpha_t' x_0(x_t) + sigma_t' e(x_t, t),    x_0(x_t) = (x_t - sigma_t e) / alpha_t

(Song et al. 2020, arXiv:2010.02502, eq. 12 with sigma = 0; upwards it inverts the sampler.)
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.distill.prediction_types import to_x0
from threestudio_asd.distill.schedule import DiscreteSchedule, NoiseSchedule
from threestudio_asd.errors import UserError

#: (x_t, t, items) -> epsilon; ``items`` says which of the batch's x_t is about.
Ask = Callable[[Tensor, Tensor, Tensor], Tensor]
#: (t, t', items) -> what is added to a step of these items.
Fresh = Callable[[Tensor, Tensor, Tensor], Tensor]


def ddim_step(
    schedule: NoiseSchedule,
    x_t: Float[Tensor, "B C H W"],
    epsilon: Float[Tensor, "B C H W"],
    t: Int[Tensor, " B"],
    to: Int[Tensor, " B"],
) -> Float[Tensor, "B C H W"]:
    """x_t' at the times ``to``, in either direction."""
    return schedule.add_noise(to_x0(schedule, epsilon, x_t, t, "epsilon"), epsilon, to)


def follow(
    schedule: NoiseSchedule,
    x: Float[Tensor, "B C H W"],
    paths: Sequence[Sequence[int]],
    ask: Ask,
    fresh: Fresh | None = None,
) -> Float[Tensor, "B C H W"]:
    """Each item's DDIM steps from one time of its path to the next.

    Items take their k-th steps together, in one call of the network; those whose paths have ended
    are not asked about again.

    Args:
        paths: The times of each item; a path of one time is no step.
        fresh: Noise that each step adds.
    """
    device = x.device
    for k in range(max(map(len, paths)) - 1):
        going = [b for b, path in enumerate(paths) if len(path) > k + 1]
        items = torch.tensor(going, device=device)
        t, to = (torch.tensor([paths[b][i] for b in going], device=device) for i in (k, k + 1))
        epsilon = ask(x[items], t, items)
        stepped = ddim_step(schedule, x[items], epsilon, t, to)
        if fresh is not None:
            stepped = stepped + fresh(t, to, items)
        x = x.index_copy(0, items, stepped)
    return x


def levels(schedule: NoiseSchedule) -> DiscreteSchedule:
    """``schedule``, whose times an inversion counts.

    Raises:
        UserError: It has no numbered levels.
    """
    if not isinstance(schedule, DiscreteSchedule):
        raise UserError(
            "An inversion goes along the numbered levels of a diffusion model, and this teacher is "
            "a flow; choose another method or teacher."
        )
    return schedule
