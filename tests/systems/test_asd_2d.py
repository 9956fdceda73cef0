"""The 2D system, from the command line to pictures and checkpoints."""

import pytest
import torch

from threestudio_asd.errors import UserError
from threestudio_asd.systems.asd_2d import ASD2DSystem, Particles

SMALL = ("system.n_particles=2", "data.batch_size=2", "system.shape=null")


def state(trial):
    return torch.load(trial / "ckpts/last.ckpt", weights_only=True)["state_dict"]


def test_a_run_trains_particles_and_critic_and_saves_pictures(launch, logged, trial):
    assert launch(*SMALL, "trainer.val_check_interval=1") == 0
    weights = state(trial)
    assert weights["particles.value"].shape == (2, 4, 8, 8)
    assert all(n.startswith(("particles.", "guidance.critic.")) for n in weights)
    moved = [v for n, v in weights.items() if n.endswith("up.weight")]
    assert moved and all(v.abs().max() > 0 for v in moved)  # B starts at zero
    saved = {path.name for path in (trial / "save").iterdir()}
    assert {"it1-0.png", "it2-0.png", "it2-test.png"} <= saved
    log = logged()
    assert len(log["train/loss_asd"]) == 2
    for name in ("loss_lora", "critic_denoise", "critic_repel", "grad_norm", "max_step"):
        assert f"train/{name}" in log
    assert log["train_params/lambda_asd"] == [1.0, 1.0]


def test_pixels_are_encoded_in_every_step(launch, trial):
    assert launch(*SMALL, "system.parametrization=pixels") == 0
    assert state(trial)["particles.value"].shape == (2, 3, 64, 64)


@pytest.mark.parametrize("method", ["vsd", "sds"])
def test_other_methods_run_in_the_same_system(launch, logged, method):
    assert launch(*SMALL, f"system.guidance.method={method}", "trainer.max_steps=1") == 0
    assert ("train/loss_lora" in logged()) == (method == "vsd")


@pytest.mark.parametrize(
    ("overrides", "drop", "message"),
    [
        ((), ("system.loss.lambda_lora",), "add system.loss.lambda_lora=1.0"),
        (("system.guidance.method=magic",), (), "Unknown method 'magic'; choose one of: asd"),
        (("system.guidance.gamma=-2",), (), "gamma must be at least -1"),
        (("data.batch_size=3",), (), "data.batch_size=3 exceeds system.n_particles=2"),
        (("system.parametrization=voxels",), (), "choose one of: latents, pixels"),
        (("system.n_particles=0",), (), "n_particles must be at least 1"),
        (("system.shape=[8,8]",), (), "must be [C, H, W]"),
        (("system.shape=[3,8,8]",), (), "latents have 4 channels; got 3"),
        (("system.shape=[4,8,8]", "system.parametrization=pixels"), (), "C = 3 for pixels"),
    ],
)
def test_mistakes_are_told_in_one_line(launch, capsys, overrides, drop, message):
    assert launch(*SMALL, *overrides, drop=drop) == 2
    error = capsys.readouterr().err.partition("error: ")[2]
    assert message in error and "\n" not in error.strip()


def test_particles_in_range():
    which = torch.tensor([1])
    latents, pixels = (Particles(2, (3, 4, 4), kind, init_std=5.0) for kind in (True, False))
    assert torch.equal(latents(which), latents.value[1:])
    assert pixels(which).min() >= 0 and pixels(which).max() <= 1
    assert latents(which).abs().max() > 1


def test_a_guidance_that_does_not_tell_its_size_needs_a_shape():
    system = object.__new__(ASD2DSystem)
    torch.nn.Module.__init__(system)
    system.guidance = None
    system.cfg = ASD2DSystem.Config(guidance_type="some-guidance")
    with pytest.raises(UserError, match=r"system.shape must be given with guidance_type some"):
        system._shape(latents=True)
