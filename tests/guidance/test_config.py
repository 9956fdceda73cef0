"""Config values: schedules, what is told at the start, what is refused."""

import logging

import pytest
import torch

from threestudio_asd.distill.methods import METHODS, Method
from threestudio_asd.distill.terms import TARGETS, Term
from threestudio_asd.errors import NotRegisteredError, UserError


def test_timesteps_follow_the_schedule(make, drawn):
    guidance = make(max_step_percent=[10, 0.98, 0.5, 20], grad_clip=[0, 2.0, 4.0, 10])
    seen = {}
    for step in (0, 10, 15, 20, 99):
        guidance.do_update_step(0, step)
        seen[step] = (guidance.timesteps.min_step, guidance.timesteps.max_step)
    assert seen == {0: (20, 980), 10: (20, 980), 15: (20, 740), 20: (20, 500), 99: (20, 500)}
    assert guidance.grad_clip_val == 4.0
    draws = [drawn(guidance, 64)[0].t for _ in range(10)]
    assert 20 <= torch.cat(draws).min() < 60 and 460 < torch.cat(draws).max() <= 500


def test_the_guidance_scale_follows_its_schedule(make, fixed, prompt, views):
    draw, latents = (torch.tensor([300, 600]), torch.randn(2, 4, 8, 8)), torch.randn(2, 8, 8, 4)

    def grad_norm(guidance, step):
        guidance.do_update_step(0, step)
        fixed(guidance, draw)
        return guidance(latents, prompt(), rgb_as_latents=True, **views())["grad_norm"]

    falls = make(method="sds", guidance_scale=[0, 100.0, 50.0, 10])
    for step, scale in ((0, 100.0), (5, 75), (10, 50.0), (99, 50.0)):
        assert grad_norm(falls, step) == grad_norm(make(method="sds", guidance_scale=scale), step)
    assert grad_norm(falls, 0) > 1.2 * grad_norm(falls, 10)
    with pytest.raises(UserError, match="'high' is not a scheduled value"):
        make(method="sds", guidance_scale="high")


def test_edges_of_the_range_move_one_by_one(make):
    guidance = make()
    guidance.set_min_max_steps(max_step_percent=0.29)
    assert (guidance.timesteps.min_step, guidance.timesteps.max_step) == (20, 290)
    guidance.set_min_max_steps(min_step_percent=0.057)
    assert (guidance.timesteps.min_step, guidance.timesteps.max_step) == (57, 290)
    guidance.set_min_max_steps()
    assert (guidance.timesteps.min_step, guidance.timesteps.max_step) == (57, 290)


def test_shared_and_independent_draws(make, drawn):
    draw, shared = drawn(make(max_step_percent=0.1), 400)
    assert shared is None and draw.t.max() <= 100
    guidance = make(max_step_percent=0.1, share_noise=False, lora_n_timestamp_samples=2)
    draw, own = drawn(guidance, 400)
    assert draw.t.max() <= 100 < own.t.max() and own.t.min() < 20
    assert own.noise.shape == (800, 4, 8, 8) and own.noise.std() > 0.9


KEYS = ("share_noise=false", "gamma_target=official")


@pytest.mark.parametrize(
    ("cfg", "told"),
    [
        ({}, KEYS),
        ({"share_noise": True}, KEYS[1:]),
        ({"gamma_target": "official"}, KEYS[:1]),
        ({"gamma": 0.0}, KEYS[:1]),
        ({"share_noise": False, "gamma_target": "epsilon"}, ()),
        ({"method": "sds"}, ()),
    ],
)
def test_defaults_that_differ_from_the_official_code_are_told(make, caplog, cfg, told):
    with caplog.at_level(logging.INFO, logger="threestudio_asd"):
        make(**cfg)
    lines = [record.message for record in caplog.records if "official code" in record.message]
    assert len(lines) == len(told)
    for line, key in zip(lines, told, strict=True):
        assert line.endswith(f"system.guidance.{key}.")


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"gamma": -1.1}, "gamma must be at least -1"),
        ({"gamma_target": "paper"}, "Unknown gamma_target 'paper'"),
        ({"guidance_rescale": 2.0}, "guidance_rescale must lie in"),
        ({"guidance_rescale": 0.7, "method": "blind"}, "of which method 'blind' makes none"),
        ({"camera_condition_type": "c2w"}, "choose one of: extrinsics, mvp, none"),
        ({"camera_condition_type": "none", "guidance_scale_lora": 2.0}, "guidance_scale_lora=1"),
        ({"lora_n_timestamp_samples": 0}, "lora_n_timestamp_samples must be at least 1"),
        ({"lora_n_timestamp_samples": 4}, "share_noise=false"),
        ({"method": "asd-pair", "share_noise": False}, "one draw for both .*share_noise=true"),
        ({"lora_rank": 0}, "lora_rank must be at least 1"),
        ({"lora_target_modules": ["nothing"]}, "No layer"),
        ({"min_step_percent": 0.9, "max_step_percent": 0.1}, "min_step_percent"),
        ({"max_step_percent": 98}, "fractions in"),
        ({"anneal_start_step": 5000}, r"max_step_percent=\[5000"),
        ({"LoRA_path": "/no/such/file"}, "no system.guidance.LoRA_path '/no/such/file'"),
        ({"ckpt_path": "/no/such/file"}, "no system.guidance.ckpt_path '/no/such/file'"),
        ({"enable_sequential_cpu_offload": True}, "this run has no GPU"),
        ({"pretrained_model_name_or_path": "/no/such/folder"}, "/no/such/folder"),
        ({"pretrained_model_name_or_path_lora": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_bad_values_are_told(make, monkeypatch, cfg, message):
    null = Term("the target term 'null'", lambda predictions, scale: predictions["null"], ("null",))
    monkeypatch.setitem(TARGETS._entries, "null", null)
    monkeypatch.setitem(METHODS._entries, "blind", Method("blind", "null", "noise", None, paper=""))
    with pytest.raises(UserError, match=message):
        make(**cfg)


def test_unknown_names_list_the_known(make):
    with pytest.raises(NotRegisteredError, match="'magic'; choose one of: asd"):
        make(method="magic")
    with pytest.raises(NotRegisteredError, match="'dreamfusion'; choose one of: asd, fantasia3d"):
        make(weighting_strategy="dreamfusion")


def test_gamma_of_minus_one_warns(make):
    with pytest.warns(UserWarning, match="gamma = -1"):
        make(gamma=-1.0)
