"""Compare with numbers that the official ASD code, or those of one-step generators, produced.

    python tests/references/check.py NUMBERS.safetensors WEIGHTS.safetensors

NUMBERS holds the inputs and results of each case, WEIGHTS two tiny random UNets, a LoRA and a
camera embedding. Prints the largest relative error of each result; exits with 1 if one is above
1e-4. The settings of a case are ``SETTINGS``, in the file's metadata. Cases with a ``kind`` are
those of one-step generators, which ``one_step`` reads.
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
from threestudio_asd.distill.guidance import classifier_free_guidance, guidance_rescale
from threestudio_asd.distill.methods import ASD
from threestudio_asd.distill.noising import NoisyBatch
from threestudio_asd.distill.prediction_types import from_epsilon
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.step import DistillationStep
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.plain import PlainTeacher
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
SCHEDULE = DiscreteSchedule.scaled_linear()


def check(numbers: Path, weights: Path) -> dict[str, dict[str, float]]:
    """Case name -> result name -> largest error, relative to the result's largest entry."""
    with safe_open(numbers, "pt") as file:
        cases = json.loads(file.metadata()["cases"])
    if all("kind" in case for case in cases.values()):
        return _check_one_step(cases, load_file(numbers), load_file(weights))
    if unknown := {key for case in cases.values() for key in case} - set(SETTINGS):
        print(f"{numbers} sets what no result here depends on: {sorted(unknown)}", file=sys.stderr)
    inputs, weights = load_file(numbers), load_file(weights)
    return {
        name: _errors(SETTINGS | case, _part(inputs, name), weights) for name, case in cases.items()
    }


def _check_one_step(
    cases: dict[str, dict], inputs: dict[str, Tensor], weights: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    import one_step  # which imports this module

    found = {}
    for name, case in cases.items():
        x = _part(inputs, name)
        got = one_step.results(case, x, weights, inputs["uncond"])
        found[name] = _relative({key: got[key] for key in x if key in got}, x)
    return found


def _errors(case: dict, x: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, float]:
    return _relative(_results(case, x, _step(case, weights)), x)


def _relative(got: dict[str, Tensor], x: dict[str, Tensor]) -> dict[str, float]:
    return {
        name: ((value - x[name].view_as(value)).abs().max() / x[name].abs().max()).item()
        for name, value in got.items()
    }


def _networks(case: dict, weights: dict[str, Tensor]) -> tuple[PlainTeacher, LoRACritic]:
    kind = case["teacher_prediction_type"]
    teacher = FrozenUNet(_unet(_part(weights, "teacher")), SCHEDULE, kind)
    unet = teacher.unet if case["single_model"] else _unet(_part(weights, "critic"))
    critic = LoRACritic(FrozenUNet(unet, SCHEDULE, case["critic_prediction_type"]), rank=4)
    critic.load_state_dict(_critic_state(weights))
    return PlainTeacher(teacher.epsilon, teacher.latent_shape, SCHEDULE), critic


def _critic_state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The stored LoRA and camera embedding, as a critic names them."""
    lora = {f"lora.{key}.weight": value for key, value in _part(weights, "lora").items()}
    camera = {f"camera.mlp.{key}": value for key, value in _part(weights, "camera").items()}
    return lora | camera


def _step(case: dict, weights: dict[str, Tensor]) -> DistillationStep:
    """The step of the guidance with the case's networks and settings."""
    teacher, critic = _networks(case, weights)
    settings = CriticSettings(gamma=case["gamma"], gamma_target=case["gamma_target"])
    return DistillationStep(
        *(ASD, teacher, critic, settings, case["guidance_scale_lora"], case["weighting"]),
        rescale=case["guidance_rescale"],
    )


def _results(case: dict, x: dict[str, Tensor], step: DistillationStep) -> dict[str, Tensor]:
    negatives: tuple = (None, None)
    if case["perp_neg"]:
        negatives = Condition(x["embed_neg"]), x["neg_weights"]
    view, null, plain = (Condition(x[f"embed_{name}"]) for name in ("view", "uncond", "plain"))
    text = Conditions({"cond": view, "null": null}, plain, *negatives).with_camera(x["camera"])
    noisy = NoisyBatch.of(SCHEDULE, x["latents"], x["t"], x["noise"])
    x0 = x["latents"].repeat(len(x["t_critic"]) // len(x["t"]), 1, 1, 1)
    critics = NoisyBatch.of(SCHEDULE, x0, x["t_critic"], x["noise_critic"])
    scale = case["guidance_scale"]
    found = step.evaluate(x["latents"], text, noisy, scale, critic_noisy=critics)
    loss = torch.stack(list(found.critic_terms.values())).sum()
    loss.backward()
    said = found.predictions
    guided = classifier_free_guidance(said["null"], said["cond"], scale)
    kind = step.critic.prediction_type
    return {
        "noise_pred": guidance_rescale(guided, said["cond"], case["guidance_rescale"]),
        "critic_pred": from_epsilon(SCHEDULE, said["critic"], said.x_t, said.t, kind),
        "grad": found.grad,
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


def told(found: dict[str, dict[str, float]]) -> int:
    """Prints what ``check`` found; the exit code."""
    agree = True
    for case, errors in found.items():
        print(f"{case}: " + ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
        agree = agree and all(error <= TOLERANCE for error in errors.values())
    print(f"{'all' if agree else 'NOT all'} relative errors are at most {TOLERANCE:.0e}")
    return 0 if agree else 1


def main(numbers: str, weights: str) -> int:
    return told(check(Path(numbers), Path(weights)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
