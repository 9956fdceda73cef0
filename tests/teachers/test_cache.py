"""Models that are read once, and copied."""

import pytest
import torch

from threestudio_asd.teachers import cache, diffusers
from threestudio_asd.teachers.cache import models_read_once, read_once
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny.random_sd import write_random_sd


@pytest.fixture
def readings():
    return []


@pytest.fixture
def load(readings):
    @read_once
    def load(name, width=2):
        readings.append(name)
        return torch.nn.Linear(width, width)

    return load


def test_each_model_is_read_once_and_copied(load, readings):
    with models_read_once():
        first, second = load("a"), load("a")
        load("b"), load("a", width=3)
    assert readings == ["a", "b", "a"]
    assert torch.equal(first.weight, second.weight)
    with torch.no_grad():
        first.weight.zero_()
    assert second.weight.abs().max() > 0


def test_the_first_reading_leaves_the_random_numbers_as_a_copy_does(load):
    def draws():
        torch.manual_seed(0)
        load("a")
        return torch.randn(3)

    with models_read_once():
        assert torch.equal(draws(), draws())
    assert not torch.equal(draws(), torch.manual_seed(0) and torch.randn(3))


def test_nothing_is_kept_outside(load, readings):
    with models_read_once():
        load("a")
    load("a"), load("a")
    assert readings == ["a"] * 3 and cache._kept.get() is None


def test_a_teacher_is_read_once(tmp_path, monkeypatch):
    folder, loads = write_random_sd(tmp_path), []
    whole = diffusers.load_part
    monkeypatch.setattr(
        diffusers, "load_part", lambda *a, **k: (loads.append(a[2]), whole(*a, **k))[1]
    )
    with models_read_once():
        one, two = (StableDiffusionTeacher.from_pretrained(folder) for _ in range(2))
    assert loads == ["vae"] and one.unet is not two.unet and one.unet is one.net.unet
    assert torch.equal(one.unet.conv_in.weight, two.unet.conv_in.weight)
