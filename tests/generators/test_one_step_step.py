"""A step of a one-step method: whose weights its gradients reach, and what is asked of whom."""

from dataclasses import replace

import pytest
import torch

from threestudio_asd.critics.encoder import TappedUNet
from threestudio_asd.critics.heads import Heads
from threestudio_asd.distill.one_step import ONE_STEP_METHODS
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.generators.draws import Draws, seeded
from threestudio_asd.generators.step import OneStep
from threestudio_asd.teachers.one_step import OneStepGenerator
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny.random_sd import random_unet

SCHEDULE = DiscreteSchedule.scaled_linear()
B, L, D, SHAPE = 4, 5, 24, (4, 8, 8)


class Source:
    """Captions, and real pictures with captions, of noise."""

    def __init__(self, pictures=False):
        self.pictures = pictures

    def draw(self, count, generator):
        text = torch.randn(count, L, D, generator=generator)
        return (torch.randn(count, *SHAPE, generator=generator), text) if self.pictures else text


def unet(seed):
    torch.manual_seed(seed)
    return random_unet(text_width=D)


class Rig:
    """The networks of a row and what it draws."""

    def __init__(self, name, fake=TappedUNet.copied, **settings):
        self.row = ONE_STEP_METHODS.get(name)
        self.settings = self.row.with_settings({"batch": B, **settings}, "the test")
        net = FrozenUNet(unet(0), SCHEDULE)
        self.teacher = TappedUNet.frozen(net)
        self.fake = None if self.row.fake is None else fake(FrozenUNet(unet(1), SCHEDULE))
        self.unet = unet(2).requires_grad_(True)
        discriminator = self.row.discriminator
        self.heads = None
        if discriminator is not None:
            shapes = [(32, 4, 4) for _ in discriminator.blocks]
            self.heads = Heads.of(discriminator.head, shapes)
        self.step = OneStep(
            *(self.row, self.settings, SCHEDULE, OneStepGenerator(self.unet, SCHEDULE).generate),
            *(self.teacher, self.fake, self.heads, torch.randn(L, D)),
        )
        reals = Source(pictures=True) if self.row.needs_reals else None
        sources = Source(), reals, torch.device("cpu")
        self.draws = Draws(self.row, self.settings, SCHEDULE, SHAPE, *sources)

    def moved(self):
        """Which networks have a gradient."""
        parts = {"generator": self.unet, "teacher": self.teacher.unet, "heads": self.heads}
        parts["fake"] = None if self.fake is None else self.fake.trained
        return {
            name
            for name, part in parts.items()
            if part is not None and any(p.grad is not None for p in part.parameters())
        }

    def judged_by(self):
        """What a fake step moves."""
        found = {"fake"} if self.fake is not None else set()
        return found | ({"heads"} if self.heads and [*self.heads.parameters()] else set())


@pytest.mark.parametrize("name", ONE_STEP_METHODS)
def test_each_update_reaches_its_own_networks_alone(name):
    rig = Rig(name)
    sum(rig.step.generator_losses(rig.draws.for_generator(seeded(0, 0))).values()).backward()
    assert rig.moved() == {"generator"}
    rig.unet.zero_grad()
    losses = rig.step.fake_losses(rig.draws.for_fake(seeded(0, 1)))
    assert bool(losses) == bool(rig.judged_by())
    if losses:
        sum(losses.values()).backward()
    assert rig.moved() == rig.judged_by()


def test_the_gradient_of_sid_flows_through_the_networks_and_that_of_dmd_does_not():
    """Of x_t = x + noise with the same predictions: by differences of the loss's own value."""
    for name, through in (("sid", True), ("dmd", False)):
        rig = Rig(name)
        said = rig.step.generator_said(rig.draws.for_generator(seeded(0, 0)))
        assert said.f_real.requires_grad == said.f_fake.requires_grad == through


def test_a_lora_is_the_fake_network_as_well():
    rig = Rig("sida", fake=lambda net: TappedUNet.adapted(net, 4))
    sum(rig.step.fake_losses(rig.draws.for_fake(seeded(0, 0))).values()).backward()
    assert rig.moved() == {"fake"}


def test_before_its_time_there_is_no_adversarial_term():
    rig = Rig("sida")
    draw = rig.draws.for_generator(seeded(0, 0))
    with_it, without = (rig.step.generator_losses(draw, adversarial=a) for a in (True, False))
    assert set(with_it) == {"score", "adversarial"} and set(without) == {"score"}
    assert torch.equal(with_it["score"], without["score"])


def test_guidance_at_one_asks_nothing_of_the_empty_caption(monkeypatch):
    asked = []
    call = TappedUNet.__call__
    monkeypatch.setattr(
        TappedUNet, "__call__", lambda self, x, *a: asked.append(len(x)) or call(self, x, *a)
    )
    for scale, rows in ((1.0, [B, B]), (2.0, [2 * B, B])):
        asked.clear()
        rig = Rig("sid", teacher_scale=scale)
        rig.step.generator_losses(rig.draws.for_generator(seeded(0, 0)))
        assert asked == rows


def test_guided_predictions_are_mixed_and_features_have_the_caption():
    rig = Rig("sida", fake_scale=2.0)
    draw = rig.draws.for_generator(seeded(0, 0))
    with torch.no_grad():
        said = rig.step.generator_said(draw)
        x_t = SCHEDULE.add_noise(said.x, draw.score.noise, draw.score.t)
        cond = rig.fake(x_t, draw.score.t, draw.text, ("down",))
        null = rig.fake(x_t, draw.score.t, rig.step.null.expand(B, -1, -1))
    torch.testing.assert_close(said.f_fake, 2 * cond.x0 - null.x0, atol=1e-4, rtol=1e-4)
    mean = cond.features[0].mean(dim=1, keepdim=True)
    torch.testing.assert_close(said.logits[0], mean, atol=1e-5, rtol=1e-4)


def test_real_and_generated_pictures_of_sida_share_noise_and_captions():
    """Where both are the same pictures the discriminator cannot tell."""
    rig = Rig("sida")
    draw = rig.draws.for_fake(seeded(0, 0))
    assert torch.equal(draw.text, draw.real_text)
    with torch.no_grad():
        x = rig.step.generator(draw.z, draw.text)
        said = rig.step.fake_said(replace(draw, real=x))
    torch.testing.assert_close(said.logits_real[0], said.logits_fake[0])


def test_those_of_dmd2_share_neither():
    rig = Rig("dmd2")
    draw = rig.draws.for_fake(seeded(0, 0))
    assert not torch.equal(draw.text, draw.real_text)
    assert not torch.equal(draw.apart.noise, draw.apart_real.noise)
    times = [Rig("dmd2", batch=512).draws.for_fake(seeded(0, k)).apart.t for k in range(4)]
    assert torch.cat(times).max() > 979 and torch.cat(times).min() < 20


def test_captions_are_hidden_from_a_guided_fake_network_alone():
    assert Rig("sid").draws.for_fake(seeded(0, 0)).dropped is None
    rig = Rig("sid-lsg", batch=256)
    dropped = rig.draws.for_fake(seeded(0, 0)).dropped
    assert 0.04 < dropped.float().mean() < 0.17
    guided = Rig("sid-lsg", caption_dropout=0.0)
    draw = guided.draws.for_fake(seeded(0, 0))
    null = guided.step.null.expand(B, -1, -1)
    with torch.no_grad():
        dropped = torch.ones(B, dtype=torch.bool)
        hidden = guided.step.fake_said(replace(draw, dropped=dropped)).f_fake
        x_t = SCHEDULE.add_noise(
            guided.step.generator(draw.z, draw.text), draw.denoise.noise, draw.denoise.t
        )
        torch.testing.assert_close(hidden, guided.fake(x_t, draw.denoise.t, null).x0)


def test_times_stay_in_their_range():
    rig = Rig("sid", batch=512)
    times = torch.cat([rig.draws.for_generator(seeded(0, k)).score.t for k in range(8)])
    assert times.min() == 20 and times.max() == 979


def test_a_noise_free_distance_points_where_nfsd_does():
    """At the scale 1 and late times it is e_y - e_null, that of the caption."""
    rig = Rig("distillation", distance="nfsd", teacher_scale=1.0)
    draw = rig.draws.for_generator(seeded(0, 0))
    draw.score.t.fill_(500)
    with torch.no_grad():
        said = rig.step.generator_said(draw)
        x_t = SCHEDULE.add_noise(said.x, draw.score.noise, draw.score.t)
        null = rig.step.null.expand(B, -1, -1)
        cond, plain = (rig.teacher(x_t, draw.score.t, text).x0 for text in (draw.text, null))
    torch.testing.assert_close(said.f_real, said.x + cond - plain, atol=1e-4, rtol=1e-4)
