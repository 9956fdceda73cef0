"""Batches that are accumulated before the generator's step, with a critic trained in between."""

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn

from threestudio_asd.studio.systems.finite import FiniteStepsMixin
from threestudio_asd.systems.guided import train_critic

IN_2D = ("system.n_particles=1", "data.batch_size=1", "system.shape=null")
IN_3D = (
    *("data.width=8", "data.height=8", "data.eval_height=8", "data.eval_width=8"),
    *("data.n_val_views=1", "data.n_test_views=1", "data.batch_size=1"),
    *("system.renderer.num_samples_per_ray=16", "trainer.max_steps=1"),
    "system.geometry.pos_encoding_config.log2_hashmap_size=11",
)


def trained(system):
    return {name: p for name, p in system.named_parameters() if p.requires_grad}


def mean_and_found(monkeypatch):
    """Of every step: the sum of its batches' gradients, each found apart from the accumulated ones
    (Lightning has divided the losses by their number), and what the optimiser is about to use."""
    sums, steps, backward = {}, [], FiniteStepsMixin.backward

    def recording(self, loss, *args, **kwargs):
        own = trained(self)
        apart = torch.autograd.grad(loss, list(own.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(own, apart, strict=True):
            if gradient is not None:
                sums[name] = sums.get(name, 0) + gradient
        backward(self, loss, *args, **kwargs)

    def about_to_step(self, optimizer):
        found = {n: p.grad.clone() for n, p in trained(self).items() if p.grad is not None}
        steps.append((dict(sums), found))
        sums.clear()

    monkeypatch.setattr(FiniteStepsMixin, "backward", recording)
    monkeypatch.setattr(LightningModule, "on_before_optimizer_step", about_to_step)
    return steps


def assert_equal_gradients(steps):
    for mean, found in steps:
        assert mean.keys() == found.keys()
        for name in mean:
            torch.testing.assert_close(found[name], mean[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("batches", "critic_steps"),
    [
        *[(1, 1), (4, 1), (2, 2)],
        *(pytest.param(*x, marks=pytest.mark.slow) for x in [(2, 1), (1, 2), (4, 2), (1, 5)]),
        *(pytest.param(*x, marks=pytest.mark.slow) for x in [(2, 5), (4, 5)]),
    ],
)
def test_images(launch, monkeypatch, batches, critic_steps):
    steps = mean_and_found(monkeypatch)
    count = 2 if batches * critic_steps <= 4 else 1  # what is left of one step harms the next
    options = (f"trainer.accumulate_grad_batches={batches}", f"trainer.max_steps={count}")
    assert launch(*IN_2D, *options, f"system.guidance.lora_n_steps={critic_steps}") == 0
    assert len(steps) == count
    assert all(found["particles.value"].abs().max() > 0 for _, found in steps)
    assert_equal_gradients(steps)


@pytest.mark.parametrize(
    "system", ["asd-system", pytest.param("prolificdreamer-system", marks=pytest.mark.slow)]
)
def test_a_nerf(launch, monkeypatch, system):
    steps = mean_and_found(monkeypatch)
    options = ("trainer.accumulate_grad_batches=2", "system.guidance.lora_n_steps=3")
    assert launch(*IN_3D, *options, f"system_type={system}", config="tiny/asd-nerf") == 0
    (step,) = steps
    assert any(name.startswith("geometry.") for name in step[1])
    assert_equal_gradients(steps)


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.seen = []

    def extra_critic_losses(self, rgb, prompt_utils, **batch):
        for factor in (1.0, 2.0, float("nan"), 4.0):
            self.seen.append(factor)
            yield factor * self.weight.square().sum()


class System(LightningModule):
    def __init__(self):
        super().__init__()
        self.generator, self.guidance = nn.Parameter(torch.ones(2)), Critic()
        self.prompt_utils = None
        self.cfg = type("Config", (), {"loss": {"lambda_lora": 1.0}})
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.1)

    def optimizers(self, use_pl_optimizer=True):
        return self.optimizer

    def C(self, value):
        return value

    def log(self, *args):
        pass


def test_the_critics_steps_leave_the_generator_and_its_state_alone():
    system = System()
    generator, critic = system.generator, system.guidance.weight
    (generator.sum() + critic.sum()).backward()
    system.optimizer.step()  # both have moments now
    state = {key: torch.clone(value) for key, value in system.optimizer.state[generator].items()}
    value, accumulated = generator.detach().clone(), (generator.grad, critic.grad)
    before = critic.detach().clone()
    train_critic(system, torch.zeros(1, 2, 2, 3), {})
    assert torch.equal(generator, value)
    for key, kept in system.optimizer.state[generator].items():
        assert torch.equal(kept, state[key]), key
    # The third loss is not finite: two steps, and none after it.
    assert system.optimizer.state[critic]["step"] == 3
    assert len(system.guidance.seen) == 3 and not torch.equal(critic, before)
    assert generator.grad is accumulated[0] and critic.grad is accumulated[1]
