"""The measures: plain functions of images, features, masks and meshes.

Images are RGB in [0, 1]; features are the judge's 96 penultimate ones; lengths are scene units
(every scene lies in the unit ball). Where several results share a weight ``w``, as in a bootstrap,
pairs of an image with itself never count.
"""

import torch
import torch.nn.functional as F
import trimesh
from jaxtyping import Bool, Float, Int
from scipy.ndimage import binary_fill_holes
from scipy.spatial import KDTree
from torch import Tensor
from torchmetrics.image.kid import poly_kernel

from threestudio_asd.kernels.mesh_distance import signed_distance
from threestudio_asd.scene.isosurface import grid_points
from threestudio_asd.tiny.judge import COLOR_NAMES, OBJECT_NAMES, Judge

Images = Float[Tensor, "B 3 H W"]

SURFACE_POINTS = 20_000
SURFACE_TOLERANCE = 0.05  # scene units
SOLID_CELLS = 64  # to each side of the cube [-1, 1]^3


@torch.no_grad()
def judge_scores(
    judge: Judge, images: Float[Tensor, "B 3 64 64"], object_name: str, color_name: str
) -> dict[str, Float[Tensor, "B"]]:
    """The judge's opinion of each image.

    ``right`` (0 or 1: it names object and colour), ``p_object``, ``p_color`` and ``p_pair``
    (probabilities in [0, 1]; the last is :meth:`Judge.probability`).
    """
    objects, colors = judge(images)
    p_object = objects.softmax(-1)[:, OBJECT_NAMES.index(object_name)]
    p_color = colors.softmax(-1)[:, COLOR_NAMES.index(color_name)]
    named = judge.name(images)
    right = torch.tensor([float(pair == (object_name, color_name)) for pair in named])
    pair = judge.probability(images, object_name, color_name)
    return {"right": right, "p_object": p_object, "p_color": p_color, "p_pair": pair}


def saturation(images: Images) -> Float[Tensor, "B"]:
    """Mean HSV saturation (max - min) / max over the pixels, in [0, 1]; black pixels have 0."""
    high, low = images.amax(1), images.amin(1)
    return ((high - low) / high.clamp(min=1e-3)).flatten(1).mean(1)


def sharpness(images: Images) -> Float[Tensor, "B"]:
    """Standard deviation of the Laplacian of the luma (Rec. 601), in units of intensity."""
    luma = (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    kernel = images.new_tensor([[[[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]]])
    return F.conv2d(luma, kernel).flatten(1).std(1)


def drift(before: Images, after: Images) -> Float[Tensor, "B"]:
    """Root mean square change of each image between two moments, in units of intensity."""
    return (after - before).square().flatten(1).mean(1).sqrt()


def kernel(a: Float[Tensor, "N D"], b: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    """KID's polynomial kernel (a.b / D + 1)^3 (torchmetrics'), in float64."""
    return poly_kernel(a.double(), b.double())


def pair_mean(
    matrix: Float[Tensor, "N N"],
    w: Float[Tensor, "*R N"],
    among: Bool[Tensor, "N N"] | None = None,
) -> Float[Tensor, "*R"]:
    """Mean of a symmetric matrix over pairs of different items, item i counting ``w[i]`` times, for
    each row of weights; NaN if fewer than two items have weight.

    Args:
        among: Which pairs count; by default all.
    """
    counts = torch.ones_like(matrix) if among is None else among.to(matrix)
    counts = counts.clone().fill_diagonal_(0.0)
    return ((w @ (matrix * counts)) * w).sum(-1) / ((w @ counts) * w).sum(-1)


def kid(
    truth: Float[Tensor, "N D"],
    found: Float[Tensor, "M D"],
    w: Float[Tensor, "*R M"] | None = None,
) -> Float[Tensor, "*R"]:
    """Kernel inception distance: the unbiased squared MMD of two sets of features, for each row of
    weights of the found ones.

    (Binkowski et al. 2018, arXiv:1801.01401, eq. 4, with all pairs in place of random subsets and
    sets of any two sizes; can be below 0.) NaN for fewer than two different found items.
    """
    w = torch.ones(len(found)) if w is None else w
    w = w.double()
    within_truth = pair_mean(kernel(truth, truth), torch.ones(len(truth), dtype=torch.float64))
    within_found = pair_mean(kernel(found, found), w)
    across = (w @ kernel(truth, found).mean(0)) / w.sum(-1)
    return within_truth + within_found - 2 * across


def diversity(
    features: Float[Tensor, "N D"],
    w: Float[Tensor, "*R N"] | None = None,
    among: Bool[Tensor, "N N"] | None = None,
) -> Float[Tensor, "*R"]:
    """Mean Euclidean distance between the features of different results, for each row of weights;
    NaN for fewer than 2.

    Args:
        among: Which pairs count, such as those of one caption.
    """
    w = torch.ones(len(features)) if w is None else w
    distances = torch.cdist(features.double(), features.double())
    return pair_mean(distances, w.double(), among)


def paired_distance(a: Float[Tensor, "N D"], b: Float[Tensor, "N D"]) -> float:
    """Mean Euclidean distance between the features of two sets of results, item by item."""
    return float((a.double() - b.double()).norm(dim=1).mean())


def r_precision(similarity: Float[Tensor, "N P"], which: Int[Tensor, " N"]) -> float:
    """Share in [0, 1] of the images whose own prompt, ``which`` of P, is the most similar one.

    (R-precision at R = 1, with CLIP's similarity: Park et al. 2021, for scenes Jain et al. 2022,
    Dream Fields, arXiv:2112.01455, section 4.)
    """
    return float((similarity.argmax(1) == which.to(similarity.device)).float().mean())


def surface_fscore(
    found: trimesh.Trimesh,
    truth: trimesh.Trimesh,
    tolerance: float = SURFACE_TOLERANCE,
    points: int = SURFACE_POINTS,
) -> float:
    """F-score of two surfaces in [0, 1]: harmonic mean of the shares of each one's surface that
    lie within ``tolerance`` (scene units) of the other's. 0 for a mesh without faces.

    (Knapitsch et al. 2017, Tanks and Temples.) Both are sampled at ``points`` random places, the
    same in every call.
    """
    if not len(found.faces) or not len(truth.faces):
        return 0.0
    a, b = (trimesh.sample.sample_surface(m, points, seed=0)[0] for m in (found, truth))
    precision = float((KDTree(b).query(a)[0] <= tolerance).mean())
    recall = float((KDTree(a).query(b)[0] <= tolerance).mean())
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def solid(mesh: trimesh.Trimesh, cells: int = SOLID_CELLS) -> Bool[Tensor, "X Y Z"]:
    """Which cells of [-1, 1]^3 have their centre in the body that ``mesh`` bounds.

    Cavities that are closed all around count as body: nobody sees them, and optimised densities
    are often hollow there. Nothing for a mesh without faces.
    """
    if not len(mesh.faces):
        return torch.zeros(cells, cells, cells, dtype=torch.bool)
    outermost = 1 - 1 / cells
    points = grid_points(torch.tensor([[-outermost] * 3, [outermost] * 3]), cells)
    vertices = torch.tensor(mesh.vertices, dtype=torch.float32)
    distance = signed_distance(points, vertices, torch.tensor(mesh.faces))
    inside = (distance < 0).reshape(cells, cells, cells)
    return torch.from_numpy(binary_fill_holes(inside.numpy()))


def volume_iou(found: trimesh.Trimesh, truth: trimesh.Trimesh, cells: int = SOLID_CELLS) -> float:
    """Intersection over union of the bodies of two meshes (see :func:`solid`), in [0, 1]."""
    a, b = solid(found, cells), solid(truth, cells)
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def rotated(mesh: trimesh.Trimesh, degrees: float) -> trimesh.Trimesh:
    """A copy of ``mesh`` turned about the z axis, counter-clockwise seen from above."""
    turn = trimesh.transformations.rotation_matrix(torch.pi * degrees / 180, [0, 0, 1])
    return mesh.copy().apply_transform(turn)
