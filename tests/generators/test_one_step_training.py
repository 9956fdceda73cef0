"""The loop: it alternates, averages, goes on as if never stopped, and survives a NaN."""

import signal
from dataclasses import dataclass, field

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from threestudio_asd.distill.one_step import ONE_STEP_METHODS
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.files import claimed
from threestudio_asd.generators.callbacks import PATIENCE, Samples
from threestudio_asd.generators.train import CHECKPOINT, train
from threestudio_asd.generators.training import OneStepTraining
from threestudio_asd.stop import Stopped
from threestudio_asd.teachers.one_step import OneStepGenerator
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny.random_sd import random_unet

SCHEDULE = DiscreteSchedule.scaled_linear()
L, D, SHAPE = 5, 24, (4, 8, 8)


@dataclass
class Captions:
    """Noise for captions; not a number at the draws ``spoilt``, counted from 0."""

    spoilt: range = range(0)
    drawn: int = 0

    def draw(self, count, generator):
        text = torch.randn(count, L, D, generator=generator)
        self.drawn += 1
        return text * float("nan") if self.drawn - 1 in self.spoilt else text


class Reals:
    def draw(self, count, generator):
        text = torch.randn(count, L, D, generator=generator)
        return torch.randn(count, *SHAPE, generator=generator), text


def unet(seed):
    torch.manual_seed(seed)
    return random_unet(text_width=D)


def training(name="sida", captions=None, fake_rank=0, seed=0, net=None, **settings):
    row = ONE_STEP_METHODS.get(name)
    given = {"batch": 2, "generator_from": 0, "adversarial_from": 0, **settings}
    return OneStepTraining(
        generator=OneStepGenerator(unet(0), SCHEDULE),
        net=net or FrozenUNet(unet(0), SCHEDULE),
        method=row,
        settings=row.with_settings(given, "the test"),
        captions=captions or Captions(),
        null=torch.zeros(L, D),
        reals=Reals() if row.needs_reals else None,
        fake_rank=fake_rank,
        seed=seed,
    )


@dataclass
class Log(pl.Callback):
    """Losses and a copy of a weight of the generator's after each step; ``at`` happens there."""

    at: dict = field(default_factory=dict)
    losses: list = field(default_factory=list)
    weights: list = field(default_factory=list)

    def on_train_batch_end(self, trainer, module, *args):
        self.losses.append(module.losses)
        self.weights.append(module.unet.conv_in.weight.detach().clone())
        if (act := self.at.pop(module.steps_done, None)) is not None:
            act()


def trained(folder, steps, log=None, save_every=100, **options):
    module = training(**options)
    callbacks = [] if log is None else [log]
    made = train(module, folder, steps, save_every, callbacks, accelerator="cpu")
    return module, made


def killed():
    raise MemoryError("killed")


@pytest.mark.parametrize("name", ["sida", pytest.param("dmd2", marks=pytest.mark.slow)])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path, name):
    whole, first, second = Log(), Log(at={3: killed}), Log()
    _, made = trained(tmp_path / "whole", 4, whole, name=name, ema=0.5)
    with pytest.raises(MemoryError):
        trained(tmp_path / "other", 4, first, save_every=2, name=name, ema=0.5)
    _, again = trained(tmp_path / "other", 4, second, name=name, ema=0.5)
    assert whole.losses[:3] == first.losses
    assert whole.losses[2:] == second.losses
    pairs = zip(made.unet.parameters(), again.unet.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert whole.losses[0] != whole.losses[1]


def test_a_signal_ends_the_run_after_its_step_and_the_next_goes_on(tmp_path):
    log = Log(at={2: lambda: signal.raise_signal(signal.SIGTERM)})
    with pytest.raises(Stopped):
        trained(tmp_path, 4, log)
    again, whole = Log(), Log()
    trained(tmp_path, 4, again)
    trained(tmp_path / "whole", 4, whole)
    # The signal came at the end of a step, hence in the next one.
    assert (log.losses, again.losses) == (whole.losses[:2], whole.losses[3:])


def test_a_finished_run_only_gives_back_its_generator(tmp_path):
    _, made = trained(tmp_path, 2)
    log = Log()
    _, again = trained(tmp_path, 2, log)
    assert log.losses == []
    assert torch.equal(made.unet.conv_in.weight, again.unet.conv_in.weight)


def test_who_moves_when(tmp_path):
    log = Log()
    module = training("sida", generator_from=1, adversarial_from=2)
    start = module.unet.conv_in.weight.detach().clone()
    train(module, tmp_path, 3, callbacks=[log], accelerator="cpu")
    assert [set(losses) for losses in log.losses] == [
        {"fake", "discriminator"},
        {"fake", "discriminator", "score"},
        {"fake", "discriminator", "score", "adversarial"},
    ]
    assert torch.equal(log.weights[0], start)
    assert not torch.equal(log.weights[1], start)
    assert module.moves == 2


def test_every_row_trains(tmp_path):
    for name in ONE_STEP_METHODS:
        log = Log()
        module, _ = trained(tmp_path / name, 1, log, name=name, fake_steps=1)
        assert log.losses[0] and module.skipped == 0


def test_the_average_follows_the_generator(tmp_path):
    """decay min(.5, (1 + k) / (10 + k)): .1, then 2/11."""
    log = Log()
    module = training("sid", ema=0.5, lr_generator=1e-2)
    start = module.unet.conv_in.weight.detach().clone()
    made = train(module, tmp_path, 2, callbacks=[log], accelerator="cpu")
    first = 0.1 * start + 0.9 * log.weights[0]
    torch.testing.assert_close(made.unet.conv_in.weight, 2 / 11 * first + 9 / 11 * log.weights[1])
    assert not any(p.requires_grad for p in made.unet.parameters())


@pytest.mark.parametrize("fake_rank", [0, 4])
def test_the_teacher_is_what_it_was_to_the_bit(tmp_path, fake_rank):
    net = FrozenUNet(unet(0), SCHEDULE)
    asked = torch.randn(2, *SHAPE), torch.tensor([100, 800]), torch.randn(2, L, D)
    with torch.no_grad():
        before = net.unet(*asked).sample
        trained(tmp_path, 2, net=net, fake_rank=fake_rank)
        assert torch.equal(net.unet(*asked).sample, before)


def test_a_step_that_is_not_finite_is_left_out_and_counted(tmp_path):
    log = Log()
    # SiD draws captions twice a step: the second step's fake network sees the third.
    module, made = trained(tmp_path, 4, log, name="sid", captions=Captions(range(2, 3)))
    assert module.skipped == 1 and module.skipped_in_a_row == 0 and module.moves == 3
    assert torch.equal(log.weights[1], log.weights[0])
    assert not torch.equal(log.weights[2], log.weights[1])
    assert all(p.isfinite().all() for p in made.unet.parameters())


def test_ten_such_steps_in_a_row_end_it_with_the_last_finite_weights(tmp_path):
    log = Log()
    with pytest.raises(UserError, match=rf"{PATIENCE} steps in a row, from step 2 on.*lr_fake"):
        trained(tmp_path, 30, log, name="sid", captions=Captions(range(4, 100)))
    assert len(log.weights) == 2 + PATIENCE or len(log.weights) == 1 + PATIENCE
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert torch.equal(saved["modules"]["unet"]["conv_in.weight"], log.weights[1])
    assert saved["numbers"]["skipped"] == PATIENCE


def test_another_trainings_checkpoint_is_refused(tmp_path):
    trained(tmp_path, 1, name="sid")
    for other in ({"name": "sid", "alpha": 1.2}, {"name": "dmd"}, {"name": "sid", "seed": 1}):
        with pytest.raises(UserError, match="into another folder"):
            trained(tmp_path, 2, **other)


def test_two_trainings_do_not_share_a_folder(tmp_path):
    with claimed(tmp_path), pytest.raises(UserError, match="Another process"):
        trained(tmp_path, 1)


def test_a_row_that_learns_from_pictures_needs_some():
    row = ONE_STEP_METHODS.get("sida")
    with pytest.raises(UserError, match="learns from real pictures and there are none"):
        OneStepTraining(
            *(OneStepGenerator(unet(0), SCHEDULE), FrozenUNet(unet(0), SCHEDULE), row),
            *(row.with_settings({}, "the test"), Captions(), torch.zeros(L, D)),
        )


def test_pictures_of_the_same_noise_every_few_steps(tmp_path):
    noise, text = torch.randn(5, *SHAPE), torch.randn(5, L, D)
    samples = Samples(tmp_path / "samples", 2, noise, text, lambda z: z[:, :3].sigmoid(), columns=5)
    module = training("sid", lr_generator=1e-2, ema=0.0)
    train(module, tmp_path, 4, callbacks=[samples], accelerator="cpu")
    files = sorted((tmp_path / "samples").iterdir())
    assert [file.name for file in files] == ["000002.png", "000004.png"]
    sizes = [Image.open(file).size for file in files]
    assert sizes == [(5 * 8, 8)] * 2
    assert files[0].read_bytes() != files[1].read_bytes()
    with torch.no_grad():
        expected = module.averaged().generate(noise, text)[0, :3].sigmoid()
    shown = torch.from_numpy(np.array(Image.open(files[1])))[:, :8].permute(2, 0, 1) / 255
    torch.testing.assert_close(shown, expected, atol=1 / 250, rtol=0)
