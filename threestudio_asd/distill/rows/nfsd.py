"""NFSD: the part of SDS that points at the data, without what only takes the noise away.

    grad = w(t) (e_null + s (e_y - e_null) - D),    D = 0 for t < 200, else e_neg

(Noise-Free Score Distillation, Katzir et al. 2023, arXiv:2310.17590.) e_null - e_neg estimates the
direction from what is noisy to what is real, e_neg being a prompt that describes a bad picture; at
small t the noise is little and e_null itself does. The drawn noise enters through x_t alone.

The authors published no code; the numbers that this row is held against are those of SDS-Bridge's
reimplementation, whose scale is 40 by default (the paper's: 7.5), which evaluates e_null twice,
whose optimiser is handed w (T - S) itself, and which compares a tensor with 200, hence takes
batches of one. Here each item has its own t.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.methods import Method, register_method
from threestudio_asd.distill.predictions import Predictions, register_prediction
from threestudio_asd.distill.terms import register_source

register_prediction(
    "negative",
    "e_neg, the teacher with a description of bad pictures, whatever the prompt",
    words="unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, "
    "low-resolution, gloomy",
)


@register_source("negative-from", needs=("negative",), settings={"negative_from": 200.0})
def negative_from(predictions: Predictions) -> Float[Tensor, "B C H W"]:
    """e_neg from the time ``negative_from`` on, 0 before."""
    late = predictions.t >= predictions.settings["negative_from"]
    negative = predictions["negative"]
    return torch.where(late.view(-1, 1, 1, 1), negative, torch.zeros_like(negative))


NFSD = register_method(
    Method(
        name="nfsd",
        target="guided",
        source="negative-from",
        critic_objective=None,
        paper="Noise-Free Score Distillation, Katzir et al. 2023, arXiv:2310.17590",
    )
)
