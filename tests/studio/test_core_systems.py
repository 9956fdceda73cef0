"""Systems without a launcher: weights, updates, modes, seeds, losses that are not finite."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from small_system import System
from torch import nn

from threestudio_asd.errors import UserError
from threestudio_asd.studio.base import BaseObject, Updateable
from threestudio_asd.studio.checkpoint.store import save_atomically
from threestudio_asd.studio.systems.finite import FiniteStepsMixin
from threestudio_asd.studio.systems.lift3d import BaseLift3DSystem
from threestudio_asd.studio.systems.seeding import seed_step


def test_weights_of_an_earlier_trial(tmp_path):
    source = System({})
    path = tmp_path / "last.ckpt"
    state = {"state_dict": source.state_dict(), "epoch": 2, "global_step": 9}
    save_atomically(state, path)
    system = System({"weights": str(path), "weights_ignore_modules": ["background"]})
    assert torch.equal(system.geometry.encoding.weight, source.geometry.encoding.weight)
    assert not torch.equal(system.background.weight, source.background.weight)
    assert system.geometry.steps == [(2, 9, True)]

    class Wider(System):
        def configure(self):
            super().configure()
            self.background = nn.Linear(3, 3)

    with pytest.raises(UserError, match="weights_ignore_modules"):
        Wider({"weights": str(path)})


def test_status_of_a_resumed_evaluation():
    system = System({})
    assert (system.true_global_step, system.C([0, 1.0, 2.0, 10])) == (0, 1.0)
    system.set_resume_status(3, 5)
    assert (system.true_current_epoch, system.true_global_step) == (3, 5)
    assert system.C([0, 1.0, 2.0, 10]) == 1.5


def test_updates_reach_public_attributes_once():
    calls = []

    class Part(BaseObject):
        def configure(self, name):
            self.name = name

        def update_step(self, epoch, global_step, on_load_weights=False):
            calls.append((self.name, global_step))

        def update_step_end(self, epoch, global_step):
            calls.append((self.name, "end"))

    class Whole(Part):
        def configure(self, name):
            super().configure(name)
            self.part = Part(None, "part")
            self._private = Part(None, "private")
            self.other = 3

        @property
        def alias(self):
            return self.part

    whole = Whole(None, "whole")
    whole.do_update_step(0, 7)
    whole.do_update_step_end(0, 7)
    assert calls == [("part", 7), ("whole", 7), ("part", "end"), ("whole", "end")]
    system = System({})
    system.do_update_step(0, 4)
    assert system.geometry.steps == [(0, 4, False)]
    assert isinstance(system, Updateable)


def test_modes_survive_a_validation():
    class Renderer(nn.Module):
        randomized = True

        def train(self, mode=True):
            self.randomized = mode
            return super().train(mode)

    system = System({})
    system.renderer = Renderer()
    system.teacher = nn.Dropout().eval()
    system.on_validation_model_eval()
    assert not system.renderer.randomized and not system.geometry.training
    system.on_validation_model_train()
    assert system.renderer.randomized and system.geometry.training
    assert not system.teacher.training


@pytest.mark.parametrize("scaler", [None, object()])
def test_a_loss_scaler_sees_every_backward_pass(scaler):
    class Steps(FiniteStepsMixin, nn.Module):
        trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
        global_step = 0

    steps = Steps()
    steps.weight = nn.Parameter(torch.ones(2))
    steps.backward(steps.weight.sum() * float("nan"))
    assert (steps.weight.grad is not None) == (scaler is not None)
    assert steps.nonfinite_steps == 1
    steps.zero_grad()
    steps.backward(steps.weight.sum())
    assert steps.weight.grad.tolist() == [1, 1]
    assert (steps.nonfinite_steps, steps.nonfinite_total) == (0, 1)


def test_random_numbers_depend_on_seed_and_batch_only():
    def draw(seed, batch):
        seed_step(seed, batch)
        return torch.rand(4).tolist()

    assert draw(0, 5) == draw(0, 5)
    numbers = [tuple(draw(seed, batch)) for seed in range(4) for batch in range(4)]
    assert len(set(numbers)) == 16


def test_wandb_is_refused_by_name():
    with pytest.raises(UserError, match=r"system\.loggers\.wandb\.enable"):
        System({"loggers": {"wandb": {"enable": True}}})
    System({"loggers": {"wandb": {"enable": False, "project": "p"}}})


def test_pictures_of_the_guidance_stand_beside_the_render(tmp_path):
    class Empty(BaseLift3DSystem):
        def configure(self):
            pass

    system = Empty({})
    system.set_save_dir(tmp_path)
    pictures = {"imgs_noisy": torch.rand(2, 4, 4, 3), "imgs_1step": torch.rand(2, 8, 8, 3)}
    system.guidance_evaluation_save(torch.rand(3, 6, 5, 3), {**pictures, "texts": ["a", "b"]})
    assert Image.open(tmp_path / "it0-train.png").size == (3 * 5, 2 * 6)
