"""Compare with numbers that the official ASD code produced.

    python tests/references/check.py NUMBERS.safetensors WEIGHTS.safetensors

NUMBERS holds the inputs and results of each case, WEIGHTS two tiny random UNets, a LoRA and a
camera embedding. Prints the largest relative error of each result; exits with 1 if one is above
1e-4. The settings of a case are ``SETTINGS``, in the file's metadata.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from threestudio_asd.critics.lora import LoRACritic
from threestudio_asd.distill.critic_step import CriticSettings
from threestudio_asd.distill.guidance import guidance_rescale, guided
from threestudio_asd.distill.methods import ASD
from threestudio_asd.distill.schedule import NoiseSchedule, from_epsilon
from threestudio_asd.distill.weighting import weight
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.step import DistillationStep, Draw
from threestudio_asd.teachers.base import Teacher
from threestudio_asd.teachers.unet import FrozenUNet

TOLERANCE = 1e-4
#: What a case may set, and what holds where it does not.
SETTINGS = {
    "single_model": False,
    "teacher_prediction_type": "epsilon",
    "critic_prediction_type": "epsilon",
    "guidance_scale": 7.5,
    "guidance_scale_lora": 1.0,
    "guidance_rescale": 0.0,
    "weighting": "sds",
    "gamma": -1.0,
    "gamma_target": "official",
    "perp_neg": False,
    "lora_n_timestamp_samples": 1,
}
SCHEDULE = NoiseSchedule.scaled_linear()


def check(numbers: Path, weights: Path) -> dict[str, dict[str, float]]:
    """Case name -> result name -> largest error, relative to the result's largest entry."""
    with safe_open(numbers, "pt") as file:
        cases = json.loads(file.metadata()["cases"])
    if unknown := {key for case in cases.values() for key in case} - set(SETTINGS):
        print(f"{numbers} sets what no result here depends on: {sorted(unknown)}", file=sys.stderr)
    inputs, weights = load_file(numbers), load_file(weights)
    return {
        name: _errors(SETTINGS | case, _part(inputs, name), weights) for name, case in cases.items()
    }


def _errors(case: dict, x: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, float]:
    got = _results(case, x, _step(case, weights))
    return {
        name: ((value - x[name].view_as(value)).abs().max() / x[name].abs().max()).item()
        for name, value in got.items()
    }


class UNetTeacher(Teacher):
    """A UNet alone; the cases begin with latents and embeddings."""

    def __init__(self, net: FrozenUNet) -> None:
        self.net, self.schedule, self.prediction_type = net, net.schedule, net.prediction_type

    def epsilon(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self.net.epsilon(x_t, t, condition)

    encode = decode = embed_text = None


def _networks(case: dict, weights: dict[str, Tensor]) -> tuple[UNetTeacher, LoRACritic]:
    kind = case["teacher_prediction_type"]
    teacher = FrozenUNet(_unet(_part(weights, "teacher")), SCHEDULE, kind)
    unet = teacher.unet if case["single_model"] else _unet(_part(weights, "critic"))
    critic = LoRACritic(FrozenUNet(unet, SCHEDULE, case["critic_prediction_type"]), rank=4)
    critic.load_state_dict(_critic_state(weights))
    return UNetTeacher(teacher), critic


def _critic_state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The stored LoRA and camera embedding, as a critic names them."""
    lora = {f"lora.{key}.weight": value for key, value in _part(weights, "lora").items()}
    camera = {f"camera.mlp.{key}": value for key, value in _part(weights, "camera").items()}
    return lora | camera


def _step(case: dict, weights: dict[str, Tensor]) -> DistillationStep:
    """The step of the guidance with the case's networks and settings."""
    teacher, critic = _networks(case, weights)
    settings = CriticSettings(gamma=case["gamma"], gamma_target=case["gamma_target"])
    return DistillationStep(ASD, teacher, critic, settings, case["guidance_scale_lora"])


def _results(case: dict, x: dict[str, Tensor], step: DistillationStep) -> dict[str, Tensor]:
    negatives = {}
    if case["perp_neg"]:
        negatives["negatives"] = x["embed_neg"].unflatten(0, x["neg_weights"].shape)
        negatives["negative_weights"] = x["neg_weights"]
    text = Conditions(x["embed_view"], x["embed_uncond"], x["embed_plain"], **negatives)
    draws = Draw(x["t"], x["noise"]), Draw(x["t_critic"], x["noise_critic"])
    result = step.evaluate(x["latents"], text, x["camera"], *draws)
    loss = torch.stack(list(result.critic_terms.values())).sum()
    loss.backward()
    scores, scale, rescale = result.scores, case["guidance_scale"], case["guidance_rescale"]
    w = weight(case["weighting"], SCHEDULE, scores.t, scores.x_t)
    kind = step.critic.prediction_type
    return {
        "noise_pred": guidance_rescale(guided(scores, scale), scores.cond, rescale),
        "critic_pred": from_epsilon(SCHEDULE, scores.critic, scores.x_t, scores.t, kind),
        "grad": step.method.gradient(scores, scale, w, rescale),
        "loss_critic": loss.detach(),
        "critic_grad_norm": _grad_norm(step.critic.lora),
        "camera_grad_norm": _grad_norm(step.critic.camera),
    }


def _unet(state: dict[str, Tensor]) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=4,
    )
    unet.load_state_dict(state)
    return unet


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = prefix + "."
    return {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}


def _grad_norm(module: torch.nn.Module) -> Tensor:
    return torch.stack([p.grad.norm() for p in module.parameters()]).norm()


def main(numbers: str, weights: str) -> int:
    agree = True
    for case, errors in check(Path(numbers), Path(weights)).items():
        print(f"{case}: " + ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
        agree = agree and all(error <= TOLERANCE for error in errors.values())
    print(f"{'all' if agree else 'NOT all'} relative errors are at most {TOLERANCE:.0e}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
