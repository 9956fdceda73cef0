"""Compare with numbers that the official ASD code produced.

    python tests/references/check.py NUMBERS.safetensors WEIGHTS.safetensors

NUMBERS holds the inputs and results of each case, WEIGHTS two tiny random UNets, a LoRA and a
camera embedding. Prints the largest relative error of each result; exits with 1 if one is above
1e-4.
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
from threestudio_asd.distill.critic import asd_objective
from threestudio_asd.distill.critic_step import CriticSettings, CriticStep, gamma_teacher
from threestudio_asd.distill.guidance import classifier_free_guidance, guided
from threestudio_asd.distill.methods import ASD
from threestudio_asd.distill.schedule import NoiseSchedule, to_epsilon
from threestudio_asd.distill.scores import Scores
from threestudio_asd.distill.weighting import weight
from threestudio_asd.teachers.unet import FrozenUNet

TOLERANCE = 1e-4
SCHEDULE = NoiseSchedule.scaled_linear()
RESULTS = ("noise_pred", "critic_pred", "grad")
CRITIC_RESULTS = ("loss_critic", "critic_grad_norm", "camera_grad_norm")


def check(numbers: Path, weights: Path) -> dict[str, dict[str, float]]:
    """Case name -> result name -> largest error, relative to the result's largest entry."""
    with safe_open(numbers, "pt") as file:
        cases = json.loads(file.metadata()["cases"])
    inputs, weights = load_file(numbers), load_file(weights)
    return {name: _errors(case, _part(inputs, name), weights) for name, case in cases.items()}


def _errors(case: dict, x: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, float]:
    teacher, critic = _networks(case, weights)
    got = _generator(case, x, teacher, critic) | _critic(case, x, teacher, critic)
    return {
        name: ((got[name] - x[name].squeeze()).abs().max() / x[name].abs().max()).item()
        for name in RESULTS + CRITIC_RESULTS
    }


def _networks(case: dict, weights: dict[str, Tensor]) -> tuple[FrozenUNet, LoRACritic]:
    teacher = FrozenUNet(_unet(_part(weights, "teacher")), SCHEDULE)
    unet = teacher.unet if case["single_model"] else _unet(_part(weights, "critic"))
    critic = LoRACritic(FrozenUNet(unet, SCHEDULE, case["critic_prediction_type"]), rank=4)
    lora = {f"lora.{key}.weight": value for key, value in _part(weights, "lora").items()}
    camera = {f"camera.mlp.{key}": value for key, value in _part(weights, "camera").items()}
    critic.load_state_dict(lora | camera)
    return teacher, critic


def _generator(case: dict, x: dict, teacher: FrozenUNet, critic: LoRACritic) -> dict[str, Tensor]:
    t, x_t = x["t"], SCHEDULE.add_noise(x["latents"], x["noise"], x["t"])
    scale = case["guidance_scale_lora"]
    with torch.no_grad():
        prediction = critic.predict(x_t, t, x["embed_plain"], x["camera"])
        if scale != 1.0:
            null = critic.predict(x_t, t, x["embed_uncond"])
            prediction = classifier_free_guidance(null, prediction, scale)
        scores = Scores(
            x_t=x_t,
            t=t,
            noise=x["noise"],
            null=teacher.epsilon(x_t, t, x["embed_uncond"]),
            cond=teacher.epsilon(x_t, t, x["embed_view"]),
            critic=to_epsilon(SCHEDULE, prediction, x_t, t, critic.prediction_type),
            **_negatives(case, x, teacher, x_t, t),
        )
    w = weight(case["weighting"], SCHEDULE, t, x_t)
    grad = ASD.gradient(scores, case["guidance_scale"], w)
    noise_pred = guided(scores, case["guidance_scale"])
    return {"noise_pred": noise_pred, "critic_pred": prediction, "grad": grad}


def _critic(case: dict, x: dict, teacher: FrozenUNet, critic: LoRACritic) -> dict[str, Tensor]:
    settings = CriticSettings(gamma=case["gamma"], gamma_target="official")
    t, noise = x["t_critic"], x["noise_critic"]
    x_t = SCHEDULE.add_noise(x["latents"], noise, t)
    with torch.no_grad():
        cond = teacher.epsilon(x_t, t, x["embed_view"])
        negatives = _negatives(case, x, teacher, x_t, t)
    step = CriticStep(
        prediction=critic.predict(x_t, t, x["embed_plain"], x["camera"]),
        prediction_type=critic.prediction_type,
        schedule=SCHEDULE,
        x0=x["latents"],
        noise=noise,
        x_t=x_t,
        t=t,
        teacher=gamma_teacher(settings, cond, **negatives),
    )
    loss = torch.stack(list(asd_objective(step, settings).values())).sum()
    loss.backward()
    return {
        "loss_critic": loss.detach(),
        "critic_grad_norm": _grad_norm(critic.lora),
        "camera_grad_norm": _grad_norm(critic.camera),
    }


def _negatives(case: dict, x: dict, teacher: FrozenUNet, x_t: Tensor, t: Tensor) -> dict:
    if not case["perp_neg"]:
        return {}
    k = x["neg_weights"].shape[1]
    repeated = x_t.repeat_interleave(k, 0), t.repeat_interleave(k, 0)
    negatives = teacher.epsilon(*repeated, x["embed_neg"]).unflatten(0, (-1, k))
    return {"negatives": negatives, "negative_weights": x["neg_weights"]}


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
