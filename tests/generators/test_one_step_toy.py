"""Four modes in the plane: generators of small networks, judged by exact samples.

The teacher's score is exact (``teachers.analytic``). The energy distance of two sets of samples is
2 E|a - b| - E|a - a'| - E|b - b'|.
"""

import copy

import pytest
import torch
from torch import Tensor, nn

from threestudio_asd.critics.encoder import Tapped
from threestudio_asd.critics.heads import Heads
from threestudio_asd.distill.one_step import ONE_STEP_METHODS, denoising, noise_level
from threestudio_asd.distill.prediction_types import to_x0
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.generators.draws import Draws, seeded
from threestudio_asd.generators.step import OneStep
from threestudio_asd.teachers.analytic import GaussianMixtureTeacher
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.tiny.train.loop import Average

SCHEDULE = DiscreteSchedule.scaled_linear()
MODES = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
WIDTH, BATCH, T = 96, 128, 625


class World(GaussianMixtureTeacher):
    """Four Gaussians around ``MODES``, moved; the teacher of a step and a source of pictures."""

    trained = None

    def __init__(self, moved: float = 0.0, std: float = 0.15) -> None:
        means = (MODES + moved).view(4, 2, 1, 1)
        super().__init__({str(k): (mean, std) for k, mean in enumerate(means)}, SCHEDULE)
        self.std = std

    def __call__(self, x_t: Tensor, t: Tensor, text: Tensor, blocks: tuple = ()) -> Tapped:
        everything = Condition(self.unconditional.expand(len(x_t), 1, -1))
        return Tapped(to_x0(SCHEDULE, self.epsilon(x_t, t, everything), x_t, t, "epsilon"))

    def encode(self, x_t: Tensor, t: Tensor, text: Tensor, blocks: tuple) -> tuple:
        raise AssertionError("no row here asks the teacher's encoder")

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        which = torch.randint(4, (count,), generator=generator)
        noise = torch.randn(count, 2, 1, 1, generator=generator)
        return self.means[which] + self.std * noise

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.sample(count, generator), torch.zeros(count, 1, 1)


class NoCaptions:
    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(count, 1, 1)


class Network(nn.Module):
    """epsilon(x_t, t) as an x_0; what lies between its two halves is tapped."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        decoder = nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 2)
        self.decoder = nn.Sequential(*decoder)

    @property
    def trained(self) -> nn.Module:
        return self

    def encode(self, x_t: Tensor, t: Tensor, text: Tensor, blocks: tuple = ()) -> tuple[Tensor]:
        level = (SCHEDULE.sigma(t, x_t) / SCHEDULE.alpha(t, x_t)).log().flatten(1)
        phase = t[:, None] / 1000
        features = self.encoder(torch.cat([x_t.flatten(1), level, phase, phase**2], dim=1))
        return (features[:, :, None, None],)

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor, blocks: tuple = ()) -> Tapped:
        features = self.encode(x_t, t, text)
        epsilon = self.decoder(features[0].flatten(1)).view_as(x_t)
        return Tapped(to_x0(SCHEDULE, epsilon, x_t, t, "epsilon"), features if blocks else ())

    def generate(self, z: Tensor, text: Tensor) -> Tensor:
        t = torch.full((len(z),), T)
        return self(SCHEDULE.sigma(t, z) * z, t, text).x0


def energy_distance(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten(1), b.flatten(1)
    across, within, among = (torch.cdist(*pair).mean() for pair in ((a, b), (a, a), (b, b)))
    return (2 * across - within - among).item()


def pretrained(world: World, steps: int = 1000, lr: float = 4e-3) -> Network:
    """A score of the world's samples: what all networks of a training begin as."""
    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    text = torch.zeros(BATCH, 1, 1)
    for k in range(steps):
        random = seeded(1, k)
        x = world.sample(BATCH, random)
        t = torch.randint(20, 980, (BATCH,), generator=random)
        x_t = SCHEDULE.add_noise(x, torch.randn(x.shape, generator=random), t)
        error = denoising(network(x_t, t, text).x0, x) * noise_level(SCHEDULE, t, x).flatten() ** -2
        optimizer.param_groups[0]["lr"] = lr * (1 - k / steps)
        optimizer.zero_grad()
        error.mean().backward()
        optimizer.step()
    return network


def distilled(
    name: str, teacher: World, data: World | None = None, steps: int = 2800, **settings: float
) -> Tensor:
    """Samples of a generator that a row has trained, of the average of its weights."""
    torch.manual_seed(1)
    row = ONE_STEP_METHODS.get(name)
    numbers = row.with_settings(
        {"batch": BATCH, "adversarial_from": steps // 10, **settings}, "toy"
    )
    fake = pretrained(teacher)
    generator = copy.deepcopy(fake)
    heads = Heads.of("mean", [(WIDTH, 1, 1)]) if row.adversary else None
    step = OneStep(
        *(row, numbers, SCHEDULE, generator.generate, teacher, fake, heads, torch.zeros(1, 1))
    )
    place = torch.device("cpu")
    draws = Draws(row, numbers, SCHEDULE, (2, 1, 1), NoCaptions(), data, place)
    average = Average(generator, 0.99)
    moved = ((generator, numbers.lr_generator), (fake, numbers.lr_fake))
    optimizers = [torch.optim.Adam(m.parameters(), lr=lr, betas=numbers.betas) for m, lr in moved]
    for k in range(steps):
        random = seeded(0, k)
        for group in (group for o in optimizers for group in o.param_groups):
            group["lr"] *= 1.0 if k < steps // 2 else 0.05 ** (2 / steps)
        advance(optimizers[1], step.fake_losses(draws.for_fake(random)))
        draw = draws.for_generator(random)
        advance(optimizers[0], step.generator_losses(draw, k >= numbers.adversarial_from))
        average.update(generator, k)
    generator.load_state_dict(average.state)
    with torch.no_grad():
        return generator.generate(torch.randn(8192, 2, 1, 1), torch.zeros(8192, 1, 1))


def advance(optimizer: torch.optim.Optimizer, losses: dict[str, Tensor]) -> None:
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()


def shares(x: Tensor) -> Tensor:
    """Of the modes, by nearest centre."""
    nearest = torch.cdist(x.flatten(1), MODES).argmin(dim=1)
    return torch.bincount(nearest, minlength=4) / len(x)


RATES = {"lr_generator": 1e-3, "lr_fake": 2e-3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "near"),
    [
        ("sid", {"alpha": 0.5}, 0.012),
        ("sid", {"alpha": 1.0}, 0.012),
        ("sid", {"alpha": 1.2}, 0.018),  # slower: 0.0135 after these steps
        ("dmd", {}, 0.012),
    ],
)
def test_the_generator_reaches_its_teacher(name, settings, near):
    teacher = World()
    found = distilled(name, teacher, **RATES, **settings)
    assert energy_distance(found, teacher.sample(8192)) < near
    assert shares(found).min() > 0.2


@pytest.mark.slow
def test_real_pictures_move_it_from_a_wrong_teacher_to_the_data():
    """The teacher's modes are moved by a quarter and too wide; the discriminator sees the data."""
    data, teacher = World(), World(moved=0.25, std=0.25)
    weights = {"adversarial_weight": 1.0, "discriminator_weight": 1.0}
    found, real = (
        distilled("sida", teacher, data, steps=2000, **weights, **RATES),
        data.sample(8192),
    )
    wrong = energy_distance(teacher.sample(8192), real)
    assert energy_distance(found, real) < 0.75 * wrong
    assert energy_distance(found, teacher.sample(8192)) > 0.02
    assert shares(found).min() > 0.2
