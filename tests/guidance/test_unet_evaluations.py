"""How often the UNet runs: the table in docs/method.md, counted by hooks on the network."""

import importlib
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# config, perp-neg -> rows per item without gradient, with gradient, and calls of the network
TABLE = {
    "asd": ({}, False, 2, 1, 2),
    "asd, perp-neg": ({}, True, 4, 1, 2),
    "asd, perp-neg, official target": ({"gamma_target": "official"}, True, 4, 1, 2),
    "gamma 0 asks nothing for the critic": ({"gamma": 0.0}, False, 2, 1, 2),
    "vsd": ({"method": "vsd"}, False, 2, 1, 2),
    "vsd, perp-neg": ({"method": "vsd"}, True, 4, 1, 2),
    "sds": ({"method": "sds"}, False, 2, 0, 1),
    "sds, perp-neg": ({"method": "sds"}, True, 4, 0, 1),
    # Independent draws: a pass of the teacher and one of the critic more.
    "asd, independent": ({"share_noise": False}, False, 2 + 1 + 1, 1, 3),
    "asd, independent, gamma 0": ({"share_noise": False, "gamma": 0.0}, False, 2 + 1, 1, 3),
    "vsd, independent": ({"share_noise": False, "method": "vsd"}, False, 2 + 1, 1, 3),
    "asd, independent, perp-neg, official target": (
        {"share_noise": False, "gamma_target": "official"},
        True,
        4 + 3 + 1,
        1,
        3,
    ),
    "asd, independent, perp-neg": ({"share_noise": False}, True, 4 + 4 + 1, 1, 3),
    "asd, three draws of the critic": (
        {"share_noise": False, "lora_n_timestamp_samples": 3},
        False,
        2 + 3 + 1,
        3,
        3,
    ),
    "guidance of the critic": ({"guidance_scale_lora": 2.0}, False, 2 + 2, 1, 4),
}


def step(guidance, prompt_utils, batch):
    rgb = torch.rand(len(batch["elevation"]), 64, 64, 3)
    return guidance(rgb, prompt_utils, **batch)


@pytest.mark.parametrize("row", TABLE)
def test_evaluations_per_item(make, prompt, views, counted, row):
    cfg, perp_neg, plain, grad, calls = TABLE[row]
    guidance = make(lora_cfg_training=False, **cfg)
    with counted(guidance.teacher.unet) as seen:
        step(guidance, prompt(perp_neg), views())
    assert seen == {"calls": calls, "plain": 2 * plain, "grad": 2 * grad}


def test_a_hidden_camera_costs_one_more_pass_of_the_critic(make, prompt, views, counted):
    guidance = make()
    guidance.critic.camera_dropout = 1.0
    with counted(guidance.teacher.unet) as seen:
        step(guidance, prompt(), views())
    assert seen == {"calls": 3, "plain": 2 * 3, "grad": 2 * 1}


def test_a_critic_without_cameras_never_pays_for_dropout(make, prompt, views, counted):
    guidance = make(camera_condition_type="none")
    with counted(guidance.teacher.unet) as seen:
        step(guidance, prompt(), views())
    assert seen == {"calls": 2, "plain": 2 * 2, "grad": 2 * 1}


def test_negatives_of_weight_zero_are_not_evaluated(make, prompt, views, counted):
    """Views from above have no negatives: 2 rows for one item, 4 for the other."""
    guidance = make(lora_cfg_training=False)
    with counted(guidance.teacher.unet) as seen:
        step(guidance, prompt(perp_neg=True), views(elevation=(80.0, 10.0)))
    assert seen == {"calls": 2, "plain": 2 + 4, "grad": 2}
    with counted(guidance.teacher.unet) as seen:
        step(guidance, prompt(perp_neg=True), views(elevation=(80.0, 70.0)))
    assert seen == {"calls": 2, "plain": 2 + 2, "grad": 2}


def test_a_second_unet_is_the_critics(make, prompt, views, counted, folders):
    guidance = make(
        pretrained_model_name_or_path_lora=str(folders["v_prediction"]), lora_cfg_training=False
    )
    assert guidance.critic.prediction_type == "v_prediction"
    with counted(guidance.teacher.unet) as teacher, counted(guidance.critic.net.unet) as critic:
        step(guidance, prompt(), views())
    assert teacher == {"calls": 1, "plain": 4, "grad": 0}
    assert critic == {"calls": 1, "plain": 0, "grad": 2}


def test_single_model_keeps_one_unet(make, folders):
    for cfg in (
        {},
        {"pretrained_model_name_or_path_lora": str(folders["epsilon"])},
        {"pretrained_model_name_or_path_lora": "some/other-model", "single_model": True},
    ):
        guidance = make(**cfg)
        assert guidance.critic.net is guidance.teacher.net


@pytest.mark.parametrize(
    ("perp_neg", "way", "plain"),
    [
        (False, "shared", 2),
        (False, "hidden", 3),
        (False, "official", 5),
        (True, "shared", 4),
        (True, "hidden", 5),
        (True, "official", 9),
    ],
)
def test_the_benchmark_times_the_evaluations_it_names(
    make, counted, monkeypatch, perp_neg, way, plain
):
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = importlib.import_module("asd_step")
    guidance = make()
    case = benchmark.Case(guidance.teacher.net, guidance.critic, perp_neg)
    with counted(guidance.teacher.unet) as seen:
        getattr(case, way)()
    assert (seen["plain"], seen["grad"]) == (plain, 1)
    assert all(p.grad is not None for p in guidance.critic.lora.parameters())
