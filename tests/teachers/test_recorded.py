"""A recording of a network is the network, to the last bit, or is not used."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from threestudio_asd.critics.lora import LoRACritic
from threestudio_asd.parallel import splitting
from threestudio_asd.teachers import recorded
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.recorded import Recorder
from threestudio_asd.tiny.random_sd import write_random_sd


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_sd(tmp_path_factory.mktemp("sd"))


def trained(folder, steps=6, **cfg):
    """Predictions and gradients of some steps in which a critic is trained, and its network."""
    torch.manual_seed(0)
    teacher = StableDiffusionTeacher.from_pretrained(folder, **cfg)
    critic = LoRACritic(teacher.net, rank=2, init="gaussian")
    optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-2)
    found = []
    for _ in range(steps):
        images = torch.rand(4, 3, 64, 64, requires_grad=True)
        text, t, camera = torch.randn(4, 5, 24), torch.randint(1000, (4,)), torch.randn(4, 4, 4)
        text = Condition(text)
        x_t = teacher.encode(images)
        with torch.no_grad():
            teachers = teacher.epsilon(x_t, t, text)
        own = critic.predict(x_t.detach(), t, replace(text, camera=camera))
        loss = (own - teachers).square().mean() + x_t.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found += [x_t, teachers, own, images.grad, *(p.grad for p in critic.parameters())]
    return [x.detach().clone() for x in found], teacher, critic


def recordings(recorder):
    return {key[0]: call for key, call in recorder._recordings.items()}


@pytest.mark.parametrize("pieces", [1, 2])
def test_training_on_recordings_is_equal_to_the_bit(folder, monkeypatch, pieces):
    monkeypatch.setattr(recorded, "AFTER", 10**6)
    with splitting(pieces, 2):
        plain, teacher, _ = trained(folder)
        assert not recordings(teacher.net.recorder)
        monkeypatch.setattr(recorded, "AFTER", 2)
        found, teacher, _ = trained(folder)
    used = recordings(teacher.net.recorder)
    assert set(used) == {(), ("critic",)} and all(used.values())
    assert all(recordings(teacher._recorder).values()) and recordings(teacher._recorder)
    assert len(found) == len(plain)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def test_a_removed_critic_leaves_no_recording(folder, monkeypatch):
    monkeypatch.setattr(recorded, "AFTER", 2)
    _, teacher, critic = trained(folder)
    critic.remove()
    assert set(recordings(teacher.net.recorder)) == {()}


def test_half_precision_is_not_recorded(folder, monkeypatch):
    monkeypatch.setattr(recorded, "AFTER", 1)
    _, teacher, _ = trained(folder, steps=2, dtype="fp16", vae_dtype="fp32")
    assert not recordings(teacher.net.recorder)


class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        self.calls += 1
        return self.weight * x


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setattr(recorded, "AFTER", 2)
    return Doubling()


def test_a_recording_does_not_call_and_follows_the_weights(network):
    recorder, x = Recorder(network), torch.ones(3)
    for _ in range(2):
        call = recorder.of(network, (x,))
    before = network.calls
    with torch.no_grad():
        network.weight.fill_(3.0)
    out = call(x)
    assert network.calls == before and torch.equal(out, 3 * x)
    (grad,) = torch.autograd.grad(out.sum(), network.weight)
    assert grad == 3.0


@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_are_called(network, when):
    recorder, x, seen = Recorder(network), torch.ones(3), []
    for _ in range(3 if when == "after" else 1):
        recorder.of(network, (x,))
    network.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(3):
        recorder.of(network, (x,))(x)
    assert len(seen) == 3


def test_a_network_that_answers_otherwise_the_second_time_is_called(network):
    recorder, x = Recorder(network), torch.ones(3)

    def counting(x):
        return network(x) * network.calls

    for _ in range(4):
        assert recorder.of(counting, (x,)) is counting


def test_a_network_that_cannot_be_recorded_is_called(network, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("no tracing on this Python")

    monkeypatch.setattr(torch.jit, "trace", refuse)
    recorder, x = Recorder(network), torch.ones(3)
    for _ in range(4):
        assert recorder.of(network, (x,)) is network


def test_each_shape_has_its_recording_up_to_a_number(network, monkeypatch):
    monkeypatch.setattr(recorded, "MOST", 2)
    recorder = Recorder(network)
    for rows in (1, 2, 3):
        for _ in range(3):
            call = recorder.of(network, (torch.ones(rows),))
        assert (call is network) == (rows == 3)
