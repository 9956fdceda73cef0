"""Where the rows of the method table take points whose score is known: docs/images/mixture.png.

    python benchmarks/mixture.py [--picture docs/images/mixture.png] [--points 200] [--steps 1000]

A world of five Gaussians in the plane: things above and below, left and right, and fog, which is
what bad pictures are. The prompt is "above", two things; points begin as things below. Teacher,
critic and corrective network are exact. Prints a table: mean, and spread about the nearest thing,
of each row's points.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from mixture_picture import Panel, picture
from numpy.polynomial.hermite import hermgauss
from torch import Tensor

from threestudio_asd.distill.critic import optimal_critic
from threestudio_asd.distill.critic_step import CriticSettings
from threestudio_asd.distill.methods import METHODS
from threestudio_asd.distill.noise_fields import FieldNoise
from threestudio_asd.distill.noising import NOISINGS, Views
from threestudio_asd.distill.prediction_types import to_x0
from threestudio_asd.distill.schedule import DiscreteSchedule, Times
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.step import DistillationStep
from threestudio_asd.teachers.analytic import GaussianMixtureTeacher
from threestudio_asd.teachers.condition import Condition

SCHEDULE = DiscreteSchedule(DiscreteSchedule.scaled_linear().alphas_cumprod.double())
SCALE, GAMMA, RATE = 2.0, -0.75, 0.03
STD = 0.25
THINGS = {
    "above left": ((-1.0, 1.0), STD),
    "above right": ((1.0, 1.0), STD),
    "below left": ((-1.0, -1.0), STD),
    "below right": ((1.0, -1.0), STD),
    "fog": ((0.0, 0.0), 1.5),
}
ABOVE, BELOW = (0.5, 0.5, 0.0, 0.0, 0.0), (0.0, 0.0, 0.5, 0.5, 0.0)
ALL, FOG = (0.2,) * 5, (0.0, 0.0, 0.0, 0.0, 1.0)
#: What each prediction is asked about: shares of the things.
TOLD = {
    "null": ALL,
    "cond": ABOVE,
    "empty": ALL,
    "negative": FOG,
    "bridge_source": (0.25, 0.25, 0.0, 0.0, 0.5),
    "bridge_target": ABOVE,
    "reference_cond": BELOW,
}
#: What a row is told instead; CSD lives from a negative prompt.
TOLD_OF = {"csd": {"null": FOG}}
#: MVDream's rescaling is made for pictures: the deviation of two numbers says nothing. CSD has the
#: weights that its schedules end with, an inversion the negative of the scale, DSD one scale.
SETTINGS = {
    "mvdream": {"recon_std_rescale": 0.0},
    "csd": {"negative_scale": -0.5, "null_scale": -0.5},
    "sdi": {"inversion_guidance_scale": -SCALE},
    "jsd": {"inversion_guidance_scale": -SCALE},
    "dsd": {"dsd_source_scale": SCALE},
}
#: Shares of the schedule between which t falls, of rows that have no field and let it, or have it
#: end elsewhere.
FALLS = {"sdi": (0.02, 0.98), "jsd": (0.02, 0.98), "cds": (0.1, 0.7), "dsd": (0.32, 0.98)}
NODES = 7  # of a quadrature, along an axis

#: Rows of one panel walk alike here, where there are no cameras.
PANELS = (
    *(("sds", "sds-bridge-first"), ("sdi-drawn",), ("sjc",), ("mvdream",), ("lmc-sds",)),
    *(("nfsd",), ("csd",), ("sds-bridge",), ("sds-bridge-3d",), ("ism",)),
    *(("sdi",), ("jsd",), ("cds",), ("dsd",), ("fsd", "fsd-2d", "cfd", "cfd-2d")),
    *(("vsd",), ("asd",), ("esd",), ("sim",), ("dds",), ("asd-pair",)),
)


@dataclass(frozen=True, eq=False)
class ExactCritic:
    """The best critic of ``points``: of all of them, or with a camera of each alone. Of a pair it
    is asked about two sets of them, each under a prompt of its own."""

    teacher: GaussianMixtureTeacher
    points: tuple[Float[Tensor, "N 2 1 1"], ...]
    gamma: float
    schedule = SCHEDULE
    prediction_type = "epsilon"

    def predict(
        self, x_t: Float[Tensor, "B 2 1 1"], t: Times, condition: Condition
    ) -> Float[Tensor, "B 2 1 1"]:
        """E[eps | x_t] over the points, moved away from the teacher as ASD's is."""
        alpha, sigma = self.schedule.alpha(t, x_t), self.schedule.sigma(t, x_t)
        sides = zip(
            self.points, *(x.chunk(len(self.points)) for x in (x_t, alpha, sigma)), strict=True
        )
        mean = torch.cat([self._mean(*side, condition.camera is not None) for side in sides])
        own = (x_t - alpha * mean) / sigma
        return optimal_critic(own, self.teacher.epsilon(x_t, t, condition), self.gamma)

    def _mean(
        self, points: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, one_each: bool
    ) -> Float[Tensor, "N 2 1 1"]:
        """E[x_0 | x_t]."""
        if one_each:
            return points
        apart = (x_t[:, None] - alpha[:, None] * points).flatten(2).square().sum(-1)
        share = (-apart / (2 * sigma.flatten(1) ** 2)).softmax(dim=1)
        return torch.einsum("bn,nchw->bchw", share, points)

    def draw_camera_dropout(self) -> bool:
        return False

    def parameters(self) -> Iterator[Tensor]:
        return iter(())


class World(GaussianMixtureTeacher):
    """The things, and what their teacher makes of a point, in the mean over the noise."""

    def corrective(self) -> Callable[[Tensor, Times], Tensor]:
        return self.answer

    def answer(
        self, x0: Float[Tensor, "B 2 1 1"], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B 2 1 1"]:
        """E[x0(e_null(alpha x_0 + sigma eps, t))], by Gauss-Hermite quadrature."""
        nodes, weights = (torch.from_numpy(x) for x in hermgauss(NODES))
        noise = 2**0.5 * torch.cartesian_prod(nodes, nodes).view(1, -1, 2, 1, 1)
        weights = torch.cartesian_prod(weights, weights).prod(-1) / math.pi
        n, many = len(x0), noise.shape[1]
        x0, t = (x.repeat_interleave(many, dim=0) for x in (x0, t))
        x_t = SCHEDULE.add_noise(x0, noise[0].repeat(n, 1, 1, 1), t)
        null = Condition(self.unconditional.expand(n * many, 1, -1))
        said = to_x0(SCHEDULE, self.epsilon(x_t, t, null), x_t, t, "epsilon")
        return torch.einsum("k,bkchw->bchw", weights, said.unflatten(0, (n, many)))


def world() -> World:
    """The five things."""
    parts = {
        name: (torch.tensor(mean).double().view(2, 1, 1), std)
        for name, (mean, std) in THINGS.items()
    }
    return World(parts, SCHEDULE)


def drawn(shares: tuple[float, ...], n: int) -> Float[Tensor, "N 2 1 1"]:
    """``n`` points of a prompt, its things in turn."""
    teacher = world()
    which = torch.tensor([i for i, share in enumerate(shares) if share])
    which = which[torch.arange(n) % len(which)]
    std = teacher.variances[which].sqrt().view(-1, 1, 1, 1)
    return teacher.means[which] + std * torch.randn(n, 2, 1, 1).double()


def text_of(n: int, told: Mapping[str, tuple[float, ...]]) -> Conditions:
    """Conditions of ``n`` points; the critic is told the prompt."""
    texts = {
        name: Condition(torch.tensor(shares).double().expand(n, 1, -1))
        for name, shares in told.items()
    }
    return Conditions(texts, texts["cond"])


def flows(name: str) -> bool:
    """Whether the row ``name`` compares with a field's noise, along whose flow it steps."""
    row = METHODS.get(name)
    return NOISINGS.get(row.noising).field is not None and row.source == "noise"


def times_of(name: str, steps: int) -> Int[Tensor, " S"] | None:
    """t of each step, of rows that let it fall; None for those that draw it."""
    low, high = FALLS.get(name, (0.02, 0.98))
    if name not in FALLS and not flows(name):
        return None
    edges = SCHEDULE.between(low, high)
    return torch.linspace(edges.max_step, edges.min_step, steps).round().long()


def ratio(t: Tensor) -> Float[Tensor, "B 1 1 1"]:
    """lambda = sigma / alpha."""
    return (SCHEDULE.noise(t) / SCHEDULE.signal(t)).sqrt()


def step_of(name: str, points: tuple[Tensor, ...], noise: Tensor) -> DistillationStep:
    """A step of the row ``name`` among ``points``, with each point's own ``noise`` in its field."""
    row, teacher = METHODS.get(name), world()
    gamma = GAMMA if row.critic_objective == "asd" else 0.0
    critic = ExactCritic(teacher, points[: len(row.sides)], gamma) if row.critic else None
    held = FieldNoise(noise, torch.ones(len(noise), 1, 1, 1, dtype=torch.bool))
    with_field = NOISINGS.get(row.noising).field is not None
    return DistillationStep(
        *(row, teacher, critic, CriticSettings()),
        weighting="asd" if flows(name) else None,
        field=(lambda x0, views: held) if with_field else None,
    )


def pushed(
    name: str,
    start: Float[Tensor, "N 2 1 1"],
    noise: Float[Tensor, "N 2 1 1"],
    steps: int = 1000,
    scale: float = SCALE,
) -> Float[Tensor, "S N 2"]:
    """Where the row ``name`` takes the points, step by step.

    Adam at a rate that falls to 0, as trainings have it; rows that compare with a field's noise,
    here ``noise``, take the step of the flow instead: (lambda - lambda') / lambda of the gradient.
    For ESD each point is a view with a camera of its own.
    """
    n, x = len(start), start.clone()
    step = step_of(name, (x, start), noise)
    text = text_of(n, TOLD | TOLD_OF.get(name, {}))
    if name == "esd":
        text = text.with_camera(torch.eye(4).double().expand(n, 4, 4))
    views = Views(*torch.zeros(3, n), reference=start)
    settings, grid = step.defaults | SETTINGS.get(name, {}), times_of(name, steps)
    adam = torch.optim.Adam([x], lr=RATE, betas=(0.9, 0.99), eps=1e-15)
    decay = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, steps)
    path = [x.flatten(1).clone()]
    for k in range(steps):
        t = SCHEDULE.between(0.02, 0.98).sample(n) if grid is None else grid[k].expand(n)
        latents = x.clone().requires_grad_()
        noisy = step.noisy(latents, t, views, text, settings, scale=scale)
        found = step.evaluate(latents, text, noisy, scale, settings=settings)
        (grad,) = torch.autograd.grad(found.loss, latents)
        grad = grad * step.method.divisor(latents.shape)
        if flows(name):
            then = ratio(grid[k + 1 : k + 2]) if k + 1 < steps else 0.0
            x -= (1 - then / ratio(t)) * grad
        else:
            x.grad = grad
            adam.step(), decay.step()
        path.append(x.flatten(1).clone())
    return torch.stack(path)


def spread(ends: Float[Tensor, "N 2"]) -> float:
    """Root mean square distance, along an axis, from the mean of those about the same thing."""
    means = world().means.flatten(1)[:2]
    nearest = (ends[:, None] - means).square().sum(-1).argmin(1)
    groups = [ends[nearest == k] for k in range(2) if (nearest == k).any()]
    within = torch.cat([group - group.mean(0) for group in groups])
    return within.square().mean().sqrt().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", help="a PNG to write")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--scale", type=float, default=SCALE)
    args = parser.parse_args()
    torch.manual_seed(0)
    start, noise = drawn(BELOW, args.points), torch.randn(args.points, 2, 1, 1).double()
    paths = {}
    print("| rows | mean of those left | of those right | spread |\n|---|---|---|---|")
    for names in PANELS:
        torch.manual_seed(1)
        title = ", ".join(names)
        path = paths[title] = pushed(names[0], start, noise, args.steps, args.scale)
        ends = path[-1]
        left = ends[:, 0] < 0
        means = [
            "({:.2f}, {:.2f})".format(*ends[side].mean(0)) if side.any() else "none"
            for side in (left, ~left)
        ]
        print(f"| {title} | {means[0]} | {means[1]} | {spread(ends):.2f} |", flush=True)
    if args.picture:
        paths = {"start, and the prompt": start.flatten(1)[None].expand(2, -1, -1)} | paths
        panels = [Panel(k, f"spread {spread(path[-1]):.2f}", path) for k, path in paths.items()]
        means = world().means.flatten(1)[:2]
        picture(panels, means, STD).save(args.picture, optimize=True)


if __name__ == "__main__":
    main()
