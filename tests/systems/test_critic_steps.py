"""A critic that is trained more often than the generator."""

import pytest
import torch

SMALL = ("system.n_particles=2", "data.batch_size=2", "system.shape=null")


@pytest.fixture
def calls(monkeypatch):
    """What happened, in order: every optimiser step with the parameters that had a gradient."""
    from torch.optim import Adam

    seen, step = [], Adam.step

    def recording(self, closure=None):
        if closure is not None:  # the joint step: its gradients come from the closure
            inner = closure

            def closure():
                loss = inner()
                seen.append(("joint", trained(self)))
                return loss

            return step(self, closure)
        seen.append(("critic", trained(self)))
        return step(self)

    def trained(optimizer):
        return [
            group["name"]
            for group in optimizer.param_groups
            if any(p.grad is not None for p in group["params"])
        ]

    monkeypatch.setattr(Adam, "step", recording)
    return seen


def weights(trial):
    return torch.load(trial / "ckpts/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("own_draws", ["true", "false"])
def test_the_critic_takes_further_steps_and_the_generator_one(launch, calls, trial, own_draws):
    options = ("system.guidance.lora_n_steps=3", f"system.guidance.share_noise={own_draws}")
    assert launch(*SMALL, *options, "system.optimizer.name=Adam") == 0
    step = [("critic", ["guidance"])] * 2 + [("joint", ["particles", "guidance"])]
    assert calls == step * 2
    saved = torch.load(trial / "ckpts/last.ckpt", weights_only=True)
    assert saved["global_step"] == 2


def test_a_nerf_trains_its_critic_too(launch, calls):
    small = ("data.width=12", "data.height=12", "data.eval_height=8", "data.eval_width=8")
    small += ("data.n_val_views=1", "data.n_test_views=1", "data.batch_size=1")
    small += ("system.renderer.num_samples_per_ray=16", "trainer.max_steps=1")
    small += ("system.geometry.pos_encoding_config.log2_hashmap_size=11",)
    options = ("system.guidance.lora_n_steps=2", "system.optimizer.name=Adam")
    assert launch(*small, *options, config="tiny/asd-nerf") == 0
    assert [kind for kind, _ in calls] == ["critic", "joint"]
    assert calls[0][1] == ["guidance"]


@pytest.mark.slow
def test_one_step_is_what_it_was(launch, trial, tmp_path):
    assert launch(*SMALL) == 0
    before = weights(trial)
    assert launch(*SMALL, "system.guidance.lora_n_steps=1") == 0
    after = weights(trial)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert launch(*SMALL, "system.guidance.lora_n_steps=2") == 0
    other = weights(trial)
    assert not torch.equal(other["particles.value"], before["particles.value"])


def test_a_method_without_critic_takes_none(launch, calls):
    options = ("system.guidance.lora_n_steps=3", "system.guidance.method=sds")
    assert launch(*SMALL, *options, "system.optimizer.name=Adam") == 0
    assert calls == [("joint", ["particles"])] * 2


def test_no_step_is_a_mistake(launch, capsys):
    assert launch(*SMALL, "system.guidance.lora_n_steps=0") == 2
    assert "lora_n_steps must be at least 1; got 0" in capsys.readouterr().err
