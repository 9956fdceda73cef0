"""Bad values of ``stable-diffusion-asd-guidance``'s config, told before any model is read."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import homes
from threestudio_asd.critics.base import CRITICS
from threestudio_asd.distill.critic_step import GAMMA_TARGETS, CriticSettings
from threestudio_asd.distill.methods import METHODS, Method
from threestudio_asd.distill.noising import Views
from threestudio_asd.distill.weighting import WEIGHTINGS
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.query import CORRECTIVE
from threestudio_asd.guidance.sides import places
from threestudio_asd.teachers.base import TEACHERS, Teacher
from threestudio_asd.teachers.views import check_groups

CAMERAS = ("extrinsics", "mvp", "none")
# Keys of threestudio and the fork that would silently do nothing -> what to do instead.
_UNIMPLEMENTED = {
    "anneal_start_step": "anneal with a schedule: max_step_percent=[5000, 0.98, 0.5, 5001]",
}


def checked(cfg: Any, device: torch.device) -> tuple[dict[int, Method], CriticSettings]:
    """What ``cfg`` names for a run on ``device``: the methods, by the step at which they begin, and
    the critic's settings.

    Raises:
        UserError: A value that no step could use; the message names the key.
    """
    for key, advice in _UNIMPLEMENTED.items():
        if getattr(cfg, key):
            raise UserError(f"system.guidance.{key} is not implemented; {advice}.")
    for key in ("LoRA_path", "ckpt_path"):
        if getattr(cfg, key) and not homes.expanded(getattr(cfg, key)).exists():
            raise UserError(f"There is no system.guidance.{key} '{getattr(cfg, key)}' here.")
    if cfg.enable_sequential_cpu_offload and device.type != "cuda":
        raise UserError(
            "system.guidance.enable_sequential_cpu_offload keeps the weights of a GPU run in CPU "
            "memory; this run has no GPU: set it to false."
        )
    kind, given_scale = cfg.camera_condition_type, cfg.guidance_scale_lora
    if kind not in CAMERAS:
        raise UserError(
            f"Unknown system.guidance.camera_condition_type '{kind}'; "
            f"choose one of: {', '.join(CAMERAS)}."
        )
    if not 0.0 <= cfg.guidance_rescale <= 1.0:
        raise UserError(
            f"system.guidance.guidance_rescale must lie in [0, 1]; got {cfg.guidance_rescale}."
        )
    methods = stages(cfg.method)
    for method in methods.values():
        critic_scale = method.critic_scale if given_scale is None else given_scale
        if kind == "none" and critic_scale != 1.0:
            raise UserError(
                f"Method '{method.name}' guides the critic towards the camera by "
                f"{critic_scale:g}, and camera_condition_type is none; set "
                "system.guidance.guidance_scale_lora=1."
            )
        if cfg.share_noise is False and places(method.sides):
            raise UserError(
                f"Method '{method.name}' has one draw for both of its sides and both updates; set "
                "system.guidance.share_noise=true."
            )
        if cfg.guidance_rescale and (method.loss is not None or "cond" not in method.needs):
            raise UserError(
                "system.guidance.guidance_rescale pulls the target towards the prediction 'cond', "
                f"of which method '{method.name}' makes none; set it to 0."
            )
    _check_counts(cfg)
    if cfg.weighting_strategy is not None:
        WEIGHTINGS.get(cfg.weighting_strategy)
    TEACHERS.get(cfg.teacher_type), CRITICS.get(cfg.critic_type)
    return methods, CriticSettings(cfg.gamma, cfg.gamma_target or GAMMA_TARGETS[0])


def stages(method: Any) -> dict[int, Method]:
    """The rows that ``system.guidance.method`` names, by the step at which they begin.

    Raises:
        UserError: No name and no mapping of steps, one of them 0, to names.
        NotRegisteredError: A method that nobody registered.
    """
    if isinstance(method, str):
        return {0: METHODS.get(method)}
    try:
        rows = {int(start): METHODS.get(str(name)) for start, name in dict(method).items()}
    except (TypeError, ValueError) as error:
        raise UserError(
            f"system.guidance.method is {method}; give a method's name, or names by the step at "
            "which they begin, {0: sds, 500: asd}."
        ) from error
    if min(rows, default=1) != 0:
        raise UserError(f"system.guidance.method {method} names no method for step 0; add one.")
    return rows


def method_settings(cfg: Any, methods: Mapping[int, Method]) -> dict[int, dict[str, Any]]:
    """The settings of each stage's method, with the values of ``cfg.settings``.

    Raises:
        UserError: One that none of the methods has.
    """
    given = dict(cfg.settings)
    known = {name for method in methods.values() for name in method.with_settings({}, "")}
    found = {}
    for start, method in methods.items():
        own = method.with_settings({}, "")
        mine = {k: v for k, v in given.items() if k in own or k not in known}
        found[start] = method.with_settings(mine, "system.guidance.settings")
    return found


def cameras(views: Views, kind: str) -> Float[Tensor, "B 4 4"]:
    """The matrices that a critic is told.

    Raises:
        UserError: The batch has none.
    """
    camera = {"extrinsics": views.c2w, "mvp": views.mvp_mtx}[kind]
    if camera is None:
        raise UserError(
            f"system.guidance.camera_condition_type '{kind}' needs a batch with cameras; "
            "set it to none to train the critic without."
        )
    return camera


def scenes(views: Views, teacher: Teacher) -> Float[Tensor, "B 4 4"]:
    """Where the batch is seen from, for a teacher that knows cameras.

    Raises:
        UserError: The batch has no cameras, or those that the teacher takes together do not look at
            one scene as it was trained: from one elevation and distance.
    """
    if views.c2w is None:
        raise UserError(
            "This teacher is told the camera and the batch has none (c2w); use a 3D system, or a "
            "teacher of single views."
        )
    group = teacher.views_at_once
    check_groups(len(views), group)
    together = torch.stack([views.elevation, views.camera_distances]).unflatten(1, (-1, group))
    if views.c2w.device.type == "cpu" and not torch.allclose(
        together, together[..., :1].expand_as(together), atol=1e-3
    ):
        raise UserError(
            f"This teacher takes {group} views of one scene, from one elevation and distance, and "
            "the batch's views are unrelated; set data_type to "
            f"mvdream-random-multiview-camera-datamodule and data.n_view to {group}."
        )
    return views.c2w


def require_models(cfg: Any) -> None:
    """Whether the models that the guidance config ``cfg`` names can be taught from: asked before
    anything is written, without reading or downloading weights.

    Raises:
        UserError: A model that cannot be had or is of another kind, or a checkpoint that does not
            fit; the message says which and what to do.
    """
    TEACHERS.get(cfg.get("teacher_type") or "stable-diffusion").require(cfg)


def require_corrective(teacher: Teacher, methods: Iterable[Method]) -> None:
    """Raises UserError if a method reads the corrective network of a teacher that has none."""
    if any(CORRECTIVE in method.needs for method in methods):
        teacher.corrective()


def require_single_views(teacher: Teacher) -> None:
    """Raises UserError if ``teacher`` takes several views at once, of which perp-neg, which asks
    about some of them again, knows nothing."""
    if teacher.views_at_once > 1:
        raise UserError(
            f"Perp-neg asks about single views, and this teacher takes {teacher.views_at_once} at "
            "a time; set system.prompt_processor.use_perp_neg=false."
        )


def choices(cfg: Any, methods: Iterable[Method]) -> list[str]:
    """Where defaults leave the official code, and how to follow it; one line for each."""
    if all(method.critic is None for method in methods):
        return []
    lines = []
    if cfg.share_noise is None:
        lines.append(
            "One draw of (t, noise) serves generator and critic, as in the paper's Algorithm 1; "
            "the official code draws the critic's separately: system.guidance.share_noise=false."
        )
    if cfg.gamma_target is None and cfg.gamma != 0.0:
        lines.append(
            "The critic is repelled from the teacher's epsilon, as in the paper; the official "
            "code's target differs for v critics and perp-neg: "
            "system.guidance.gamma_target=official."
        )
    return lines


def _check_counts(cfg: Any) -> None:
    for key in ("lora_rank", "lora_n_timestamp_samples", "lora_n_steps"):
        if getattr(cfg, key) < 1:
            raise UserError(f"system.guidance.{key} must be at least 1; got {getattr(cfg, key)}.")
    if cfg.lora_n_timestamp_samples > 1 and cfg.share_noise is not False:
        raise UserError(
            f"system.guidance.lora_n_timestamp_samples={cfg.lora_n_timestamp_samples} draws the "
            "critic's noise several times and cannot share the generator's one draw; "
            "set system.guidance.share_noise=false."
        )
