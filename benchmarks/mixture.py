"""Where the rows of the method table take points whose score is known: docs/images/mixture.png.

    python benchmarks/mixture.py [--picture docs/images/mixture.png] [--points 200] [--steps 1000]

A world of five Gaussians in the plane: things above and below, left and right, and fog, which is
what bad pictures are. The prompt is "above", two things; points begin as things below. Teacher and
critic are exact. Prints a table: mean, and spread about the nearest thing, of each row's points.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from threestudio_asd.distill.critic import optimal_critic
from threestudio_asd.distill.critic_step import CriticSettings
from threestudio_asd.distill.methods import METHODS
from threestudio_asd.distill.noise_fields import FieldNoise
from threestudio_asd.distill.noising import NOISINGS, Views
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
#: weights that its schedules end with, SDI's inversion the negative of the scale.
SETTINGS = {
    "mvdream": {"recon_std_rescale": 0.0},
    "csd": {"negative_scale": -0.5, "null_scale": -0.5},
    "sdi": {"inversion_guidance_scale": -SCALE},
}


@dataclass(frozen=True, eq=False)
class ExactCritic:
    """The best critic of ``points``: of all of them, or with a camera of each alone."""

    teacher: GaussianMixtureTeacher
    points: Float[Tensor, "N 2 1 1"]
    gamma: float
    schedule = SCHEDULE
    prediction_type = "epsilon"

    def predict(
        self, x_t: Float[Tensor, "N 2 1 1"], t: Times, condition: Condition
    ) -> Float[Tensor, "N 2 1 1"]:
        """E[eps | x_t] over the points, moved away from the teacher as ASD's is."""
        alpha, sigma = self.schedule.alpha(t, x_t), self.schedule.sigma(t, x_t)
        mean = self.points
        if condition.camera is None:
            apart = (x_t[:, None] - alpha[:, None] * self.points).flatten(2).square().sum(-1)
            share = (-apart / (2 * sigma.flatten(1) ** 2)).softmax(dim=1)
            mean = torch.einsum("bn,nchw->bchw", share, self.points)
        own = (x_t - alpha * mean) / sigma
        return optimal_critic(own, self.teacher.epsilon(x_t, t, condition), self.gamma)

    def draw_camera_dropout(self) -> bool:
        return False


def world() -> GaussianMixtureTeacher:
    """The five things."""
    parts = {
        name: (torch.tensor(mean).double().view(2, 1, 1), std)
        for name, (mean, std) in THINGS.items()
    }
    return GaussianMixtureTeacher(parts, SCHEDULE)


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


def falls(name: str) -> bool:
    """Whether t falls with the steps of the row ``name`` instead of being drawn."""
    return NOISINGS.get(METHODS.get(name).noising).field is not None or name == "sdi"


def ratio(t: Tensor) -> Float[Tensor, "B 1 1 1"]:
    """lambda = sigma / alpha."""
    return (SCHEDULE.noise(t) / SCHEDULE.signal(t)).sqrt()


def pushed(
    name: str,
    start: Float[Tensor, "N 2 1 1"],
    noise: Float[Tensor, "N 2 1 1"],
    steps: int = 1000,
    scale: float = SCALE,
) -> Float[Tensor, "S N 2"]:
    """Where the row ``name`` takes the points, step by step.

    Adam at a rate that falls to 0, as trainings have it; rows with a field, whose ``noise`` is each
    point's own, take the step of the flow instead: (lambda - lambda') / lambda of the gradient. For
    ESD each point is a view with a camera of its own.
    """
    row, teacher, n = METHODS.get(name), world(), len(start)
    flows = NOISINGS.get(row.noising).field is not None
    x = start.clone()
    critic = ExactCritic(teacher, x, GAMMA if name == "asd" else 0.0) if row.critic else None
    held = FieldNoise(noise, torch.ones(n, 1, 1, 1, dtype=torch.bool))
    step = DistillationStep(
        *(row, teacher, critic, CriticSettings()),
        weighting="asd" if flows else None,
        field=(lambda x0, views: held) if flows else None,
    )
    text = text_of(n, TOLD | TOLD_OF.get(name, {}))
    if name == "esd":
        text = text.with_camera(torch.eye(4).double().expand(n, 4, 4))
    views = Views(*torch.zeros(3, n), reference=start)
    settings, times = step.defaults | SETTINGS.get(name, {}), SCHEDULE.between(0.02, 0.98)
    grid = torch.linspace(times.max_step, times.min_step, steps).round().long()
    adam = torch.optim.Adam([x], lr=RATE, betas=(0.9, 0.99), eps=1e-15)
    decay = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, steps)
    path = [x.flatten(1).clone()]
    for k in range(steps):
        t = grid[k].expand(n) if falls(name) else times.sample(n)
        grad = step.evaluate(
            x, text, step.noisy(x, t, views, text, settings), scale, settings=settings
        ).grad
        if flows:
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


# The picture

#: Rows of one panel walk alike here, where there are no cameras.
PANELS = (
    *(("sds",), ("sjc",), ("mvdream",), ("nfsd",), ("csd",)),
    *(("sds-bridge",), ("sds-bridge-3d",), ("ism",), ("sdi",), ("dds",)),
    *(("fsd", "fsd-2d", "cfd", "cfd-2d"), ("vsd",), ("asd",), ("esd",)),
)
SIDE, HEAD, GAP, COLUMNS, FINE = 210, 34, 8, 5, 2
WIDE, CORNER = 4.5, (-2.25, -1.75)  # of the plane that is shown
SHOWN = 12  # walks in a panel
INK, WALK, END, TARGET = (40, 40, 40), (150, 150, 150), (178, 24, 43), (67, 116, 180)


def panel(title: str, path: Float[Tensor, "S N 2"] | None, line: str) -> Image.Image:
    """The prompt's density in blue, a few points' walks in grey, all ends in red."""
    size = SIDE * FINE
    image = Image.new("RGB", (size, size + HEAD * FINE), "white")
    image.paste(density(size), (0, HEAD * FINE))
    draw = ImageDraw.Draw(image)

    def at(point: Tensor) -> tuple[float, float]:
        across, up = ((point - torch.tensor(CORNER)) / WIDE).tolist()
        return across * size, HEAD * FINE + (1 - up) * size

    if path is not None:
        for k in range(SHOWN):
            draw.line([at(p) for p in path[:, k]], fill=WALK, width=FINE)
        for end in path[-1]:
            x, y = at(end)
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=END)
    draw.rectangle((0, 0, size, HEAD * FINE), fill="white")
    for text, height, points in ((title, 0, 13), (line, 17, 11)):
        font = ImageFont.load_default(points * FINE)
        draw.text((0, height * FINE), text, fill=INK, font=font)
    return image


def density(size: int) -> Image.Image:
    """Of the prompt, darker where there is more."""
    middle = WIDE * (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(middle.flip(0) + CORNER[1], middle + CORNER[0], indexing="ij")
    points = torch.stack([x, y], -1).double()
    means = world().means.flatten(1)[:2]
    p = sum((-(points - mean).square().sum(-1) / (2 * STD**2)).exp() for mean in means)
    share = (0.75 * p + 0.04)[..., None]
    shade = 255 + share * (torch.tensor(TARGET) - 255)
    return Image.fromarray(shade.clamp(0, 255).byte().numpy())


def picture(paths: Mapping[str, Tensor], start: Tensor) -> Image.Image:
    """All panels, the start first."""
    begin = start.flatten(1)[None].expand(2, -1, -1)
    panels = [panel("start, and the prompt", begin, f"spread {spread(start.flatten(1)):.2f}")]
    for names in PANELS:
        line = f"spread {spread(paths[names[0]][-1]):.2f}"
        panels.append(panel(", ".join(names), paths[names[0]], line))
    rows = -(-len(panels) // COLUMNS)
    width, height = SIDE + GAP, SIDE + HEAD + GAP
    whole = Image.new("RGB", (COLUMNS * width * FINE, rows * height * FINE), "white")
    for k, part in enumerate(panels):
        whole.paste(part, (k % COLUMNS * width * FINE, k // COLUMNS * height * FINE))
    small = whole.resize((COLUMNS * width, rows * height), Image.Resampling.LANCZOS)
    return small.quantize(160, dither=Image.Dither.NONE)


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
        path = paths[names[0]] = pushed(names[0], start, noise, args.steps, args.scale)
        ends = path[-1]
        left = ends[:, 0] < 0
        means = [
            "({:.2f}, {:.2f})".format(*ends[side].mean(0)) if side.any() else "none"
            for side in (left, ~left)
        ]
        print(f"| {', '.join(names)} | {means[0]} | {means[1]} | {spread(ends):.2f} |", flush=True)
    if args.picture:
        picture(paths, start).save(args.picture, optimize=True)


if __name__ == "__main__":
    main()
