"""Real pictures in the guidance: terms, draws, schedules, and bad input."""

import dataclasses
import json

import pytest
import torch
from PIL import Image

from threestudio_asd.distill.noising import NoisyBatch
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.reals import real_pictures, terms_at
from threestudio_asd.pictures import METADATA

TEXTS = {"a.png": "a red mug", "b.png": "a blue cube", "c.png": "a red mug, side view"}


@pytest.fixture
def folder(tmp_path):
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in TEXTS.items()]
    (tmp_path / METADATA).write_text("\n".join(lines) + "\n")
    for i, name in enumerate(TEXTS):
        Image.new("RGB", (40, 40), (60 * i, 30, 200)).save(tmp_path / name)
    return tmp_path


def reals(folder, **section):
    return {"real_weight": 0.2, "reals": {"type": "folder", "folder": str(folder), **section}}


def step(guidance, prompt, views):
    torch.manual_seed(3)
    rgb = torch.randn(2, 8, 8, 4, generator=torch.Generator().manual_seed(5)).requires_grad_()
    out = guidance(rgb, prompt(), **views(), rgb_as_latents=True)
    guidance.zero_grad()
    (out["loss_asd"] + out["loss_lora"]).backward()
    return out, rgb.grad, {n: p.grad.clone() for n, p in guidance.named_parameters()}


def test_weight_zero_is_the_step_without_to_the_bit(make, prompt, views, folder):
    plain = step(make(), prompt, views)
    off = make(**{**reals(folder / "nowhere"), "real_weight": 0.0})
    later = make(**{**reals(folder), "real_weight": [10, 0.0, 1.0, 20]})
    for guidance in (off, later):
        out, grad, critic = step(guidance, prompt, views)
        assert out.keys() == plain[0].keys()
        assert all(torch.equal(torch.as_tensor(out[k]), torch.as_tensor(plain[0][k])) for k in out)
        assert torch.equal(grad, plain[1])
        assert all(torch.equal(critic[n], plain[2][n]) for n in critic)


def test_the_terms_reach_the_critic_alone(make, prompt, views, folder):
    out, grad, critic = step(make(**reals(folder)), prompt, views)
    plain, plain_grad, plain_critic = step(make(), prompt, views)
    assert torch.equal(grad, plain_grad)
    assert out["critic_real_denoise"] < 0 < out["critic_real_attract"]
    total = out["critic_real_denoise"] + out["critic_real_attract"] + plain["loss_lora"]
    torch.testing.assert_close(out["loss_lora"].detach(), total.detach())
    assert any((critic[n] - plain_critic[n]).abs().max() > 1e-6 for n in critic)


def test_they_are_about_the_pictures_with_their_own_captions(make, folder):
    guidance = make(**reals(folder))
    numbers, t = torch.tensor([2, 1]), torch.tensor([300, 700])
    latents, said = guidance.reals.at(numbers)
    noise = torch.randn_like(latents)
    noisy = NoisyBatch.of(guidance.teacher.schedule, latents, t, noise)
    terms = terms_at(noisy, said, guidance.teacher, guidance.critic, 0.2, 0.5)
    texts = guidance.teacher.embed_text(["a red mug, side view", "a blue cube"])
    assert torch.equal(said.tokens, texts.tokens)
    e_phi = guidance.critic.epsilon(noisy.x_t, t, texts)
    e_y = guidance.teacher.epsilon(noisy.x_t, t, texts)
    torch.testing.assert_close(terms["real_denoise"], -0.2 * (e_phi - noise).square().mean())
    torch.testing.assert_close(terms["real_attract"], 0.1 * (e_phi - e_y).square().mean())
    # A batch is the mean of its items.
    rows = [
        terms_at(_row(noisy, i), said[i : i + 1], guidance.teacher, guidance.critic, 0.2, 0.5)
        for i in (0, 1)
    ]
    for name, value in terms.items():
        torch.testing.assert_close(value, (rows[0][name] + rows[1][name]) / 2)


def _row(noisy, i):
    return NoisyBatch(*(x[i : i + 1] for x in (noisy.x0, noisy.x_t, noisy.t, noisy.noise)))


def test_a_schedule_moves_the_weight(make, folder):
    guidance = make(**{**reals(folder), "real_weight": [10, 0.0, 1.0, 20]})
    found = []
    for now in (0, 15, 30):
        guidance.do_update_step(0, now)
        found.append(guidance.real_weight)
    assert found == [0.0, 0.5, 1.0]


def test_further_critic_steps_have_them_too(make, prompt, views, folder):
    guidance = make(lora_n_steps=2, **reals(folder))
    asked = []
    draw = guidance.reals.draw
    object.__setattr__(guidance.reals, "draw", lambda count: asked.append(count) or draw(count))
    rgb = torch.randn(2, 8, 8, 4)
    for _ in guidance.extra_critic_losses(rgb, prompt(), rgb_as_latents=True, **views()):
        assert asked == [2]


def test_some_captions_can_be_chosen(make, folder):
    guidance = make(**reals(folder, containing="a red mug"))
    assert len(guidance.reals.latents) == 2 and guidance.reals.captions.tokens.shape[0] == 2


def test_they_can_be_those_of_the_prompt(make, prompt, views, folder):
    guidance = make(**reals(folder, containing="red {prompt}"))
    assert guidance.reals is None
    out, _, _ = step(guidance, lambda: dataclasses.replace(prompt(), prompt="mug"), views)
    assert len(guidance.reals.latents) == 2 and "critic_real_denoise" in out


def test_a_picture_that_cannot_be_read_is_named_and_left_out(make, folder, caplog):
    (folder / "b.png").write_text("no picture")
    guidance = make(**reals(folder))
    assert len(guidance.reals.latents) == 2
    assert "b.png is no picture" in caplog.text and "1 of 3 pictures" in caplog.text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reals": {}}, "needs real pictures"),
        ({"reals": {"type": "elsewhere"}}, "elsewhere"),
        ({"reals": {"type": "folder"}}, "needs reals.folder"),
        ({"reals": {"type": "folder", "folder": "/nowhere"}}, "no folder of pictures"),
        ({"reals": {"type": "world", "kount": 3}}, "no kount; choose from"),
        ({"reals": {"type": "world", "count": 0}}, "at least 1"),
        ({"reals": {"type": "world", "containing": "a teapot"}}, "a teapot"),
        ({"real_weight": -0.1}, "at least 0"),
        ({"method": "sds"}, "trains none"),
    ],
)
def test_bad_input(make, folder, changes, told):
    with pytest.raises(UserError, match=told):
        make(**{**reals(folder), **changes})


def test_pictures_and_captions_of_different_number(make, folder):
    Image.new("RGB", (40, 40)).save(folder / "d.png")
    with pytest.raises(UserError, match="4 pictures and 3 captions"):
        make(**reals(folder))


def test_no_picture_can_be_read(make, folder):
    for name in TEXTS:
        (folder / name).write_text("no picture")
    with pytest.raises(UserError, match="None of the 3 pictures"):
        make(**reals(folder))


def test_renders_of_the_world_have_their_captions(make):
    guidance = make(real_weight=0.2, reals={"type": "world", "count": 3, "containing": "red mug"})
    assert guidance.reals.latents.shape == (3, 4, 8, 8)
    again = real_pictures(guidance.cfg, guidance.teacher, [guidance.step.method])
    assert torch.equal(again.latents, guidance.reals.latents)
