"""The Frechet distance between two sets of images, in whatever features they are described by."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance


def fid(truth: Float[Tensor, "N D"], found: Float[Tensor, "M D"]) -> float | None:
    """Frechet distance of the features (torchmetrics'); None where either set has fewer than
    twice as many items as there are features: its bias would drown the difference."""
    dimension = truth.shape[1]
    if min(len(truth), len(found)) < 2 * dimension:
        return None
    identity = torch.nn.Identity()
    identity.num_features = dimension
    metric = FrechetInceptionDistance(feature=identity)
    metric.set_dtype(torch.float64)
    metric.update(truth, real=True)
    metric.update(found, real=False)
    return float(metric.compute())
