"""Bad values of ``stable-diffusion-asd-guidance``'s config, told before any model is read."""

from typing import Any

from threestudio_asd.distill.critic_step import GAMMA_TARGETS, CriticSettings
from threestudio_asd.distill.methods import METHODS, Method
from threestudio_asd.distill.weighting import WEIGHTINGS
from threestudio_asd.errors import UserError

CAMERAS = ("extrinsics", "mvp", "none")
# Keys of threestudio and the fork that would silently do nothing -> what to do instead.
_UNIMPLEMENTED = {
    "LoRA_path": "load the LoRA into the model's folder instead",
    "ckpt_path": "convert the file to diffusers' folder format and name the folder in "
    "pretrained_model_name_or_path",
    "anneal_start_step": "anneal with a schedule: max_step_percent=[5000, 0.98, 0.5, 5001]",
    "enable_sequential_cpu_offload": "set it to false",
}


def checked(cfg: Any) -> tuple[Method, CriticSettings]:
    """The method and the critic's settings that ``cfg`` names.

    Raises:
        UserError: A value that no step could use; the message names the key.
    """
    for key, advice in _UNIMPLEMENTED.items():
        if getattr(cfg, key):
            raise UserError(f"system.guidance.{key} is not implemented; {advice}.")
    kind = cfg.camera_condition_type
    if kind not in CAMERAS:
        raise UserError(
            f"Unknown system.guidance.camera_condition_type '{kind}'; "
            f"choose one of: {', '.join(CAMERAS)}."
        )
    if kind == "none" and cfg.guidance_scale_lora != 1.0:
        raise UserError(
            "system.guidance.guidance_scale_lora guides the critic towards the camera, and "
            "camera_condition_type is none; set guidance_scale_lora=1."
        )
    if not 0.0 <= cfg.guidance_rescale <= 1.0:
        raise UserError(
            f"system.guidance.guidance_rescale must lie in [0, 1]; got {cfg.guidance_rescale}."
        )
    _check_counts(cfg)
    WEIGHTINGS.get(cfg.weighting_strategy)
    return METHODS.get(cfg.method), CriticSettings(cfg.gamma, cfg.gamma_target or GAMMA_TARGETS[0])


def _check_counts(cfg: Any) -> None:
    for key in ("lora_rank", "lora_n_timestamp_samples"):
        if getattr(cfg, key) < 1:
            raise UserError(f"system.guidance.{key} must be at least 1; got {getattr(cfg, key)}.")
    if cfg.lora_n_timestamp_samples > 1 and cfg.share_noise is not False:
        raise UserError(
            f"system.guidance.lora_n_timestamp_samples={cfg.lora_n_timestamp_samples} draws the "
            "critic's noise several times and cannot share the generator's one draw; "
            "set system.guidance.share_noise=false."
        )
