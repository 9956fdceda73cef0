"""A teacher that sees several views of a scene at once, in the guidance, with critics on it."""

from dataclasses import replace

import pytest
import torch
from view_scenes import TOKENS, WIDTH, V, batch, latents

from threestudio_asd.distill.noising import Views
from threestudio_asd.errors import UserError
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny.random_sd import write_random_sd

SCENES = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_sd(tmp_path_factory.mktemp("views"), text_width=WIDTH, views=V)


@pytest.fixture
def build(make, folder):
    """Builds the guidance on a model of V views; its critic has moved away from the teacher."""
    return lambda **cfg: make(**{"pretrained_model_name_or_path": str(folder), **cfg})


@pytest.fixture
def asked():
    """What a network of V views is asked about SCENES scenes: x_t, t, condition."""
    n = SCENES * V
    condition = Condition(
        torch.randn(1, TOKENS, WIDTH).expand(n, -1, -1), camera=batch(SCENES)["c2w"]
    )
    t = torch.tensor([150, 800]).repeat_interleave(V)
    return torch.randn(n, 4, 8, 8), t, condition


def epsilon(teacher, x_t, t, condition):
    with torch.no_grad():
        return teacher.epsilon(x_t, t, condition)


def test_the_teacher_says_what_it_takes(build):
    teacher = build(method="sds").teacher
    assert teacher.views_at_once == V and teacher.knows_cameras


def test_scenes_do_not_know_of_each_other_and_views_do(build, asked):
    teacher = build(method="sds").teacher
    x_t, t, condition = asked
    before = epsilon(teacher, *asked)
    camera = condition.camera.clone()
    camera[V:] = batch(SCENES, turned=55.0)["c2w"][V:]
    other = torch.cat([x_t[:V], torch.randn(V, 4, 8, 8)])
    after = epsilon(teacher, other, t, replace(condition, camera=camera))
    torch.testing.assert_close(after[:V], before[:V], atol=1e-6, rtol=1e-5)
    # Another last view of the first scene is seen in its first view.
    other = x_t.clone()
    other[V - 1] += 1.0
    after = epsilon(teacher, other, t, condition)
    assert (after[0] - before[0]).abs().max() > 1e-4
    torch.testing.assert_close(after[V:], before[V:], atol=1e-6, rtol=1e-5)


def test_views_of_a_scene_have_no_order(build, asked):
    teacher = build(method="sds").teacher
    x_t, t, condition = asked
    order = torch.tensor([2, 0, 3, 1, 4, 5, 6, 7])
    turned = epsilon(teacher, x_t[order], t, condition[order])
    torch.testing.assert_close(turned, epsilon(teacher, *asked)[order], atol=1e-5, rtol=1e-5)
    # With the cameras left where they were it is another scene.
    swapped = epsilon(teacher, x_t[order], t, condition)
    assert not torch.allclose(swapped, turned, atol=1e-4)


def test_one_view_of_each_scene_is_what_single_pictures_are_without_camera(folder, asked):
    """Alone and without camera each view is what the same weights make of a single picture."""
    x_t, t, condition = asked
    joint = FrozenUNet.load(folder)
    single = FrozenUNet.load(folder)
    alone = FrozenUNet(single.unet, single.schedule)  # one view at a time
    blind = replace(condition, camera=None)
    same = x_t[:1].expand(V, -1, -1, -1), t[:V], blind[:V]
    with torch.no_grad():
        # Equal views: attention over all of them is attention over one.
        torch.testing.assert_close(joint.predict(*same), alone.predict(*same), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(
            joint.predict(x_t, t, blind), alone.predict(x_t, t, blind), atol=1e-4
        )
        assert not torch.allclose(joint.predict(*asked), joint.predict(x_t, t, blind), atol=1e-4)


def test_a_network_in_half_precision_is_told_cameras_too(folder, asked):
    half, whole = (FrozenUNet.load(folder, dtype) for dtype in ("bf16", "fp32"))
    with torch.no_grad():
        found = half.predict(*asked)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, whole.predict(*asked), atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    "cfg",
    [
        {"method": "sds"},
        {"method": "mvdream", "weighting_strategy": "asd"},
        {"method": "vsd", "share_noise": False, "lora_n_timestamp_samples": 2},
        {"method": "asd", "lora_cfg_training": False, "guidance_scale_lora": 2.0},
        {"method": "asd", "camera_condition_type": "none"},
    ],
    ids=lambda cfg: "-".join(map(str, cfg.values())),
)
def test_methods_distil_scenes_and_leave_the_teacher_as_it_was(build, folder, prompt, asked, cfg):
    before = epsilon(FrozenUNet.load(folder), *asked)
    guidance = build(**cfg)
    assert torch.equal(epsilon(guidance.teacher, *asked), before)
    rgb = latents(SCENES).requires_grad_()
    optimizer = torch.optim.AdamW([*guidance.parameters(), rgb], lr=1e-2)
    for _ in range(3):
        out = guidance(rgb, prompt(), **batch(SCENES), rgb_as_latents=True)
        optimizer.zero_grad()
        (out["loss_asd"] + out.get("loss_lora", 0.0)).backward()
        assert rgb.grad.isfinite().all() and rgb.grad.abs().amax(dim=(1, 2, 3)).min() > 0
        assert all(p.grad is not None for p in guidance.parameters())
        optimizer.step()
        assert torch.equal(epsilon(guidance.teacher, *asked), before)
    if guidance.critic is not None:
        with torch.no_grad():
            told = replace(
                asked[2], camera=asked[2].camera if guidance.critic.knows_cameras else None
            )
            assert not torch.allclose(guidance.critic.epsilon(*asked[:2], told), before, atol=1e-3)
        assert torch.equal(epsilon(guidance.teacher, *asked), before)
        guidance.critic.remove()
        assert torch.equal(epsilon(guidance.teacher, *asked), before)


def test_the_critic_is_told_the_camera_by_the_networks_own_embedding(build, asked):
    critic = build().critic
    assert critic.camera is None and critic.knows_cameras
    assert all(name.startswith("lora.") for name, _ in critic.named_parameters())
    x_t, t, condition = asked
    with torch.no_grad():
        seen, hidden = (
            critic.epsilon(*asked),
            critic.epsilon(x_t, t, replace(condition, camera=None)),
        )
    assert not torch.allclose(seen, hidden, atol=1e-4)
    critic.camera_dropout = 1.0
    assert critic.draw_camera_dropout()
    blind = build(camera_condition_type="none").critic
    assert not blind.knows_cameras and not blind.draw_camera_dropout()


def test_a_critic_sees_the_views_of_a_scene_together(build, asked):
    critic = build().critic
    x_t, t, condition = asked
    order = torch.tensor([2, 0, 3, 1, 4, 5, 6, 7])
    with torch.no_grad():
        turned = critic.epsilon(x_t[order], t, condition[order])
        torch.testing.assert_close(turned, critic.epsilon(*asked)[order], atol=1e-5, rtol=1e-5)
        with pytest.raises(UserError, match="takes 4 views of a scene at a time and was given 3"):
            critic.epsilon(x_t[:3], t[:3], condition[:3])


def drawn(guidance, prompt, count):
    views = Views.of(batch(count))
    text = guidance.conditions(prompt(), views)
    return guidance.draws(torch.zeros(count * V, 4, 8, 8), views, text, 7.5)


def test_views_of_a_scene_share_t_and_scenes_do_not(build, prompt):
    guidance = build(share_noise=False, lora_n_timestamp_samples=2)
    for noisy in drawn(guidance, prompt, 8):
        t = noisy.t.unflatten(0, (-1, V))
        assert torch.equal(t, t[:, :1].expand_as(t)) and t[:, 0].unique().numel() > 4
        assert noisy.noise.flatten(1).unique(dim=0).shape[0] == len(noisy.noise)


def test_the_words_name_no_view_unless_asked_to(build, prompt):
    views = Views.of(batch(SCENES))
    plain = build(method="sds").conditions(prompt(), views)["cond"].tokens
    assert torch.equal(plain, plain[:1].expand_as(plain))
    named = build(method="sds", view_dependent_prompting=True).conditions(prompt(), views)
    assert not torch.equal(named["cond"].tokens, plain)
    assert torch.equal(named["cond"].camera, views.c2w)


def changed(**values):
    return {**batch(SCENES), **values}


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (
            changed(elevation=torch.linspace(-10, 40, SCENES * V)),
            "unrelated; set data_type to mvdream",
        ),
        (changed(camera_distances=torch.linspace(1, 2, SCENES * V)), "data.n_view to 4"),
        (changed(c2w=None), "told the camera and the batch has none"),
        ({k: v[:6] for k, v in batch(SCENES).items()}, "at a time and was given 6"),
    ],
    ids=["elevations", "distances", "no cameras", "a part of a scene"],
)
def test_views_that_are_not_of_one_scene_are_refused(build, prompt, cameras, message):
    rgb = latents(SCENES)[: len(cameras["elevation"])]
    with pytest.raises(UserError, match=message):
        build(method="sds")(rgb, prompt(), **cameras, rgb_as_latents=True)


def test_what_single_views_need_is_refused(build, prompt):
    with pytest.raises(UserError, match="use_perp_neg=false"):
        args = (latents(SCENES), prompt(perp_neg=True))
        build(method="sds")(*args, **batch(SCENES), rgb_as_latents=True)
    with pytest.raises(UserError, match="camera_condition_type to extrinsics or none"):
        build(camera_condition_type="mvp")
