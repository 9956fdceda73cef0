"""The alternating training of a one-step generator, as a Lightning module.

    fake network and discriminator   ``fake_steps`` times
    generator                        once, from the step ``generator_from`` on

The teacher is frozen; the fake network begins as the teacher. Results are those of the average of
the generator's weights.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio_asd.critics.encoder import TappedUNet
from threestudio_asd.critics.heads import Heads
from threestudio_asd.distill.one_step.objective import Losses
from threestudio_asd.distill.one_step.settings import OneStepSettings
from threestudio_asd.distill.one_step.table import OneStepMethod
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.files import written_whole
from threestudio_asd.generators.draws import CaptionSource, Draws, RealSource, seeded
from threestudio_asd.generators.step import OneStep
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny.train.loop import Average


@runtime_checkable
class Generator(Protocol):
    """A dataclass like ``generators.one_step.OneStepGenerator``."""

    unet: nn.Module
    schedule: DiscreteSchedule

    def generate(self, noise: Tensor, text: Tensor, steps: int = 1) -> Tensor: ...


class OneStepTraining(pl.LightningModule):
    """A generator, a fake network, a discriminator's heads and their optimisers.

    Losses and gradients that are not finite leave every weight alone; ``skipped`` counts such
    steps, ``skipped_in_a_row`` the last ones.

    Args:
        generator: Its ``unet`` is trained, in float32.
        net: The teacher's network.
        method, settings: A row of the table and its numbers.
        captions: Of the pictures that are generated.
        null: The embedding of no caption.
        reals: For rows that learn from real pictures.
        fake_rank: 0 copies the teacher's network for the fake network; above it is a low-rank
            adapter on the teacher's own.
        seed: Of all draws and of the heads' weights.

    Raises:
        UserError: A row that needs real pictures without them; what ``TappedUNet`` refuses.
    """

    def __init__(
        self,
        generator: Generator,
        net: FrozenUNet,
        method: OneStepMethod,
        settings: OneStepSettings,
        captions: CaptionSource,
        null: Float[Tensor, "L D"],
        reals: RealSource | None = None,
        fake_rank: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.method, self.settings = method, settings
        self.fake_rank, self.seed = fake_rank, seed
        self.captions, self.null, self.reals = captions, null, reals
        self._net, self._generator = net, generator
        self._fake: TappedUNet | None = None
        if method.fake is not None:
            made = TappedUNet.adapted(net, fake_rank) if fake_rank else TappedUNet.copied(net)
            self._fake = made
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = _heads(net, method)
        self.unet = generator.unet.float().requires_grad_(True)
        self.fake = None if self._fake is None else self._fake.trained
        self.average: Average | None = None
        self.steps_done = self.moves = self.skipped = self.skipped_in_a_row = 0
        self.losses: dict[str, float] = {}
        self._restored: Mapping[str, Any] | None = None
        self._made = self._built()  # what is wrong is told before the first step

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        settings = self.settings
        groups = [(self.unet, settings.lr_generator)]
        if judges := self.judges:
            groups.append((nn.ModuleList(judges), settings.lr_fake))
        # Fused: on a CPU, too, less than half the time, the same to rounding.
        return [
            torch.optim.Adam(module.parameters(), lr=lr, betas=settings.betas, fused=True)
            for module, lr in groups
        ]

    @property
    def judges(self) -> list[nn.Module]:
        """The trained parts of the fake network and the discriminator."""
        parts = (self.fake, self.heads)
        return [m for m in parts if m is not None and any(True for _ in m.parameters())]

    def on_fit_start(self) -> None:
        self._net.unet.to(self.device)
        self._made = self._built()
        self.average = Average(self.unet, self.settings.ema)
        if self._restored is not None:
            self._restore(self._restored)
            self._restored = None

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """One step; ``batch`` is its number."""
        (step,), settings, (one_step, draws) = batch.tolist(), self.settings, self._made
        generator = seeded(self.seed * self.trainer.world_size + self.global_rank, step)
        found: Losses = {}
        fine = True
        for _ in range(settings.fake_steps if self.judges else 0):
            losses = one_step.fake_losses(draws.for_fake(generator))
            found |= losses
            fine = fine and self._advanced(1, losses, settings.clip_value)
        adversarial = step >= settings.adversarial_from
        moves = step >= settings.generator_from and (adversarial or self.method.score is not None)
        if moves and fine:
            draw = draws.for_generator(generator)
            losses = one_step.generator_losses(draw, adversarial)
            found |= losses
            fine = self._advanced(0, losses)
            if fine:
                self.average.update(self.unet, self.moves)
                self.moves += 1
        self.skipped += not fine
        self.skipped_in_a_row = 0 if fine else self.skipped_in_a_row + 1
        self.losses = {name: loss.item() for name, loss in found.items()}
        self.steps_done = step + 1

    def averaged(self) -> Generator:
        """The generator with the average of its weights, frozen."""
        unet = copy.deepcopy(self.unet).requires_grad_(False)
        unet.load_state_dict(self.average.state)
        schedule = self._generator.schedule.to(self.device)
        return replace(self._generator, unet=unet, schedule=schedule)

    def save(self, path: Path) -> None:
        """All that goes on changing, and what it belongs to."""
        optimizers = [optimizer.state_dict() for optimizer in self._optimizers(wrapped=False)]
        numbers = ("steps_done", "moves", "skipped", "skipped_in_a_row")
        state = {
            "row": self._row(),
            "numbers": {name: getattr(self, name) for name in numbers},
            "modules": {name: m.state_dict() for name, m in self._modules_saved().items()},
            "average": self.average.state,
            "optimizers": optimizers,
        }
        with written_whole(path) as partial:
            torch.save(state, partial)

    def resume(self, path: Path) -> None:
        """Go on from what :meth:`save` wrote, once ``fit`` begins.

        Raises:
            UserError: It is another method's, or other settings'.
        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["row"] != self._row():
            told = [k for k, v in self._row().items() if state["row"].get(k) != v]
            raise UserError(
                f"{path} is of a training with other settings ({', '.join(told)}); go on with "
                "those, or train into another folder."
            )
        self.steps_done, self._restored = state["numbers"]["steps_done"], state

    def _restore(self, state: Mapping[str, Any]) -> None:
        for name, module in self._modules_saved().items():
            module.load_state_dict(state["modules"][name])
        for name, value in state["average"].items():
            self.average.state[name].copy_(value)
        for optimizer, saved in zip(
            self._optimizers(wrapped=False), state["optimizers"], strict=True
        ):
            optimizer.load_state_dict(saved)
        for name, value in state["numbers"].items():
            setattr(self, name, value)

    def _modules_saved(self) -> dict[str, nn.Module]:
        parts = {"unet": self.unet, "fake": self.fake, "heads": self.heads}
        return {name: module for name, module in parts.items() if module is not None}

    def _row(self) -> dict[str, Any]:
        return {
            "method": self.method.name,
            "seed": self.seed,
            "fake_rank": self.fake_rank,
            **asdict(self.settings),
        }

    def _optimizers(self, wrapped: bool = True) -> list[Any]:
        """Lightning's, which step; or the wrapped ones, which alone take a state."""
        found = self.optimizers(use_pl_optimizer=wrapped)
        return found if isinstance(found, list) else [found]

    def _advanced(self, which: int, losses: Losses, clip: float = 0.0) -> bool:
        """A step of one optimiser, or none if something is not finite on any device."""
        optimizer, total = self._optimizers()[which], torch.stack(list(losses.values())).sum()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        optimizer.zero_grad()
        self.manual_backward(total)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        fine = bool((total.detach() + norm).isfinite())
        fine = self.trainer.strategy.reduce_boolean_decision(fine, all=True)
        if fine:
            if clip:
                torch.nn.utils.clip_grad_value_(parameters, clip)
            optimizer.step()
        optimizer.zero_grad()
        return fine

    def _built(self) -> tuple[OneStep, Draws]:
        """The step and its draws, on this device."""
        schedule = self._net.schedule.to(self.device)
        self._generator = replace(self._generator, schedule=schedule)
        fake = None if self._fake is None else replace(self._fake, schedule=schedule)
        one_step = OneStep(
            method=self.method,
            settings=self.settings,
            schedule=schedule,
            generator=self._generator.generate,
            teacher=replace(TappedUNet.frozen(self._net), schedule=schedule),
            fake=fake,
            heads=self.heads,
            null=self.null,
        )
        shape = self._net.latent_shape
        draws = Draws(
            *(self.method, self.settings, schedule, shape, self.captions, self.reals),
            device=self.device,
        )
        return one_step, draws


def _heads(net: FrozenUNet, method: OneStepMethod) -> Heads | None:
    """Of the row's discriminator, for the maps that the network makes."""
    discriminator = method.discriminator
    if discriminator is None:
        return None
    x = torch.zeros(1, *net.latent_shape, device=net.device)
    t = torch.zeros(1, dtype=torch.long, device=net.device)
    text = torch.zeros(1, 1, net.unet.config.cross_attention_dim, device=net.device)
    with torch.no_grad():
        found = TappedUNet.frozen(net).encode(x, t, text, discriminator.blocks)
    return Heads.of(discriminator.head, [f.shape[1:] for f in found])
