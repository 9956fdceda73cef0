"""Rows of the method table on exact scores: a Gaussian for each prompt."""

import torch
from torch import Tensor, nn

from threestudio_asd.distill.methods import METHODS
from threestudio_asd.distill.noise_fields import FieldNoise
from threestudio_asd.distill.noising import NOISINGS, Draws, NoisyBatch, Views
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.step import DistillationStep
from threestudio_asd.teachers.analytic import GaussianTeacher, stating

SCHEDULE = DiscreteSchedule(DiscreteSchedule.scaled_linear().alphas_cumprod.double())
SHAPE = (3, 4, 4)
PROMPTS = ("", "y", "n", "bad", "source", "target", "left", "right")
#: The prompt of each prediction that has one.
ASKED = {
    "null": "n",
    "cond": "y",
    "empty": "",
    "negative": "bad",
    "bridge_source": "source",
    "bridge_target": "target",
    "reference_cond": "source",
}


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def gaussians(stds: dict[str, float] | None = None) -> GaussianTeacher:
    """One Gaussian for each prompt, of standard deviation .6 or ``stds``."""
    means = normal(len(PROMPTS), *SHAPE, seed=1)
    stds = stds or {}
    parts = {p: (mean, stds.get(p, 0.6)) for p, mean in zip(PROMPTS, means, strict=True)}
    return GaussianTeacher(parts, SCHEDULE)


EXACT = gaussians({"y": 0.5, "n": 0.7, "": 0.9, "bad": 0.4, "left": 0.3, "right": 0.8})


def text_of(batch: int, perp_neg: bool = False, exact=EXACT, **asked: str) -> Conditions:
    """Conditions of a batch; with ``perp_neg`` two negatives for each item."""
    texts = {name: exact.embed_text([p] * batch) for name, p in (ASKED | asked).items()}
    critic = exact.embed_text(["y"] * batch)
    if not perp_neg:
        return Conditions(texts, critic)
    negatives = exact.embed_text(["left", "right"] * batch)
    weights = -torch.linspace(0.3, 1.5, 2 * batch).double().view(batch, 2)
    return Conditions(texts, critic, negatives, weights)


class Streams(Draws):
    """Stored random numbers of a batch, or of some of its items alone."""

    def __init__(self, batch: int, items: slice = slice(None)) -> None:
        self.items, self.k = items, 0
        self.normals = normal(20, batch, *SHAPE, seed=2)
        self.uniforms = torch.linspace(0.1, 0.9, batch)

    def normal(self, like: Tensor) -> Tensor:
        self.k += 1
        return self.normals[self.k - 1][self.items][..., : like.shape[2], : like.shape[3]]

    def uniform(self, n: int, device: torch.device) -> Tensor:
        return self.uniforms[self.items]


class LinearCritic(nn.Module):
    """e_phi = x_t / 2 + the camera's mean / 4; a parameter of 1 gives it a gradient."""

    prediction_type, schedule = "epsilon", SCHEDULE

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def predict(self, x_t: Tensor, t: Tensor, condition) -> Tensor:
        camera = condition.camera
        seen = 0.0 if camera is None else camera.mean(dim=(1, 2)).view(-1, 1, 1, 1) / 4
        return self.one * (x_t / 2 + seen)

    def epsilon(self, x_t: Tensor, t: Tensor, condition) -> Tensor:
        return self.predict(x_t, t, condition)

    def draw_camera_dropout(self) -> bool:
        return False


def denoised_mean(exact: GaussianTeacher, prompt: str = "n"):
    """b(x_0, t) that is right for every x_0: the mean, over the noise, of what a Gaussian teacher
    makes of x_0, m + alpha^2 v / (alpha^2 v + sigma^2) (x_0 - m)."""
    which = exact.names.index(prompt)
    mean, variance = exact.means[which], exact.variances[which]

    def corrective(x0: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = levels_of(t)
        return mean + alpha**2 * variance / (alpha**2 * variance + sigma**2) * (x0 - mean)

    return corrective


def shown(x0: Tensor, views: Views) -> FieldNoise:
    """What a field may hold: noise of a view's own, but for the last column."""
    held = torch.ones_like(x0[:, :1], dtype=torch.bool)
    held[..., -1] = False
    return FieldNoise(views.reference.flip(1), held)


def step_of(name: str, kind: str = "epsilon", exact=EXACT, **options) -> DistillationStep:
    """A step of the row ``name`` whose teacher states ``kind``, whose corrective network is the
    exact one, and whose field is ``shown``."""
    row = METHODS.get(name) if isinstance(name, str) else name
    critic = LinearCritic() if row.critic else None
    if NOISINGS.get(row.noising).field is not None:
        options = {"field": shown, **options}
    teacher = stating(exact, kind)
    teacher.corrective = lambda: denoised_mean(exact)
    return DistillationStep(row, teacher, critic, **options)


def views_of(batch: int, items: slice = slice(None)) -> Views:
    """Cameras, and an original for each item."""
    reference = normal(batch, *SHAPE, seed=3)[items]
    return Views(*torch.zeros(3, batch)[:, items], reference=reference)


def at(x0: Tensor, t: Tensor | int, noise: Tensor) -> NoisyBatch:
    """x_0 with ``noise`` at ``t``."""
    t = torch.full((len(x0),), t) if isinstance(t, int) else t
    return NoisyBatch.of(SCHEDULE, x0, t, noise)


def levels_of(t: Tensor | int) -> tuple[Tensor, Tensor]:
    """alpha and sigma."""
    t = torch.tensor([t]) if isinstance(t, int) else t
    abar = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
    return abar.sqrt(), (1 - abar).sqrt()
