"""Whether a user's checkpoint (``ckpt_path``) can replace a teacher's weights, before it is loaded.

A file tells by the names and shapes of its tensors, a folder by its configurations; both are held
against the same table of kinds as a model.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from threestudio_asd.errors import UserError
from threestudio_asd.pretrained.kinds import read_config, read_configs, require_teacher
from threestudio_asd.pretrained.signs import Config
from threestudio_asd.teachers.views import MVDREAM_CAMERA
from threestudio_asd.teachers.weights import Checkpoint

Shapes = Mapping[str, tuple[int, ...]]

_PARTS = ("unet", "vae", "scheduler")
# What a network was trained with besides the architecture -> what it means that it is not stated.
_SCHEDULE = {
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    **dict.fromkeys(("beta_start", "beta_end", "beta_schedule", "trained_betas")),
}
# What the names of a file's tensors begin with or hold -> what it is, and what to do.
_NO_MODEL = {
    r"lora_|\.lora[._]|\.hada_|\.lokr_": "a LoRA: give it as LoRA_path",
    r"^control_model\.|controlnet_": "a ControlNet, which is no teacher",
    r"double_blocks\.|joint_blocks\.|^transformer_blocks\.": "a diffusion transformer, not a UNet",
    r"^emb_params$|^string_to_param$": "a textual inversion, which is not read",
    r"^text_model\.": "a text encoder, not a UNet",
    r"^(encoder|decoder)\.(down|up|mid|conv)": "an autoencoder alone, not a UNet",
}


def require_checkpoint(checkpoint: Checkpoint, model: Path | None) -> Config:
    """The settings of the UNet in the file or folder ``checkpoint``, as far as it tells.

    Args:
        model: The folder of the model that gives the architecture and the schedule; None if it is
            not here yet, and what concerns it is left for later.

    Raises:
        UserError: It cannot replace ``model``'s UNet.
    """
    saved = checkpoint.path
    texts = {} if model is None else read_configs(model, ("text_encoder",))
    if saved.is_dir():
        configs = read_configs(saved, _PARTS)
        if not configs and (saved / "config.json").is_file():
            configs = {"unet": read_config(saved / "config.json")}
        if "unet" not in configs:
            raise UserError(
                f"The folder {saved} holds neither a model nor a UNet; check ckpt_path."
            )
        require_teacher(saved, {**texts, **configs})
        if "scheduler" in configs:
            _require_schedule(saved, _SCHEDULE | dict(configs["scheduler"]), model)
        return configs["unet"]
    shapes, stated = tensor_shapes(checkpoint)
    for pattern, name in _NO_MODEL.items():
        if not _is_whole(shapes) and any(re.search(pattern, key) for key in shapes):
            raise UserError(f"The file {saved} is {name}; check ckpt_path.")
    config = unet_config(shapes)
    require_teacher(saved, {**texts, "unet": config})
    _require_schedule(saved, stated, model)
    return config


def tensor_shapes(checkpoint: Checkpoint) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Names and shapes of a file's tensors, and what it states of its schedule, if anything."""
    file, stated = checkpoint.path, {}
    if file.suffix == ".safetensors" and file.is_file():
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as tensors:
                shapes = {k: tuple(tensors.get_slice(k).get_shape()) for k in tensors.keys()}  # noqa: SIM118
                metadata = tensors.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise UserError(f"The file {file} cannot be read as weights: {error}") from error
        names = {"v": "v_prediction", "epsilon": "epsilon"}
        if kind := names.get(metadata.get("modelspec.prediction_type", "")):
            stated["prediction_type"] = kind
    else:
        state = checkpoint.state
        shapes = {k: tuple(v.shape) for k, v in state.items() if isinstance(v, torch.Tensor)}
    if "v_pred" in shapes:  # how trainers of v models mark their files
        stated["prediction_type"] = "v_prediction"
    if any(key.startswith(MVDREAM_CAMERA) for key in shapes):
        stated["prediction_type"] = "epsilon"
    return shapes, stated


def unet_config(shapes: Shapes) -> dict[str, Any]:
    """The settings of a UNet that its tensors betray, as its config.json would state them."""
    config: dict[str, Any] = {}
    for key, shape in shapes.items():
        name = key.removeprefix("model.diffusion_model.")
        if name in ("conv_in.weight", "input_blocks.0.0.weight"):
            config["in_channels"] = shape[1]
        elif name in ("conv_out.weight", "out.2.weight"):
            config["out_channels"] = shape[0]
        elif name.endswith("cond_proj.weight"):
            config["time_cond_proj_dim"] = shape[1]
        elif name.startswith("add_embedding.linear") or key.startswith("conditioner.embedders.1"):
            config["addition_embed_type"] = "text_time"
        elif name.startswith(("class_embedding.", "label_emb.", "camera_embed.")):
            config["class_embed_type"] = "projection"
            if name in ("class_embedding.linear_1.weight", "camera_embed.0.weight"):
                config["projection_class_embeddings_input_dim"] = shape[1]
        elif name.startswith(("encoder_hid_proj.", "image_embed.")):
            config["encoder_hid_dim_type"] = "image_proj"
        elif name.endswith("attn2.to_k.weight"):
            config["cross_attention_dim"] = shape[1]
    return config


def _is_whole(shapes: Shapes) -> bool:
    """Whether a whole model, which may hold more than a UNet, or a UNet in the original names."""
    return any(key.startswith("model.diffusion_model.input_blocks.") for key in shapes)


def _require_schedule(saved: Path, stated: Mapping[str, Any], model: Path | None) -> None:
    """Require that the checkpoint states what ``model`` does: the teacher has its schedule."""
    if model is None:
        return
    own = _SCHEDULE | dict(read_configs(model, ("scheduler",)).get("scheduler", {}))
    for key in _SCHEDULE:
        if key in stated and stated[key] != own[key]:
            raise UserError(
                f"The checkpoint {saved} was trained with {key} {stated[key]}, the model {model} "
                f"with {own[key]}: set pretrained_model_name_or_path to a model of the "
                "checkpoint's kind, or to the checkpoint itself if it is a folder of a model."
            )
