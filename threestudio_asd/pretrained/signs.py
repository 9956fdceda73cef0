"""What betrays the kind of a model, in the configurations of its parts.

A sign is a function of the configurations that says what it found, as a text for the message, or
"".
"""

from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]
#: Part of a model ("" is the whole: model_index.json) -> its configuration; absent parts are left
#: out.
Configs = Mapping[str, Config]
Sign = Callable[[Configs], str]

# The architectures of the parts that we can load.
UNET, VAE, TEXT = "UNet2DConditionModel", "AutoencoderKL", "clip"
PREDICTIONS = ("epsilon", "v_prediction", "sample")
#: A camera is a 4 x 4 matrix, row by row.
CAMERA_DIM = 16


def has(part: str, key: str, *values: Any) -> Sign:
    """The sign that ``key`` is set, to one of ``values`` if any are given."""

    def sign(configs: Configs) -> str:
        value = configs.get(part, {}).get(key)
        found = value in values if values else value not in (None, False)
        return f"{key} is {value}" if found else ""

    return sign


def other_class(part: str, known: str) -> Sign:
    def sign(configs: Configs) -> str:
        name = configs.get(part, {}).get("_class_name", known)
        return "" if name == known else f"it is a {name}"

    return sign


def told_cameras(unet: Config) -> bool:
    """Whether a UNet has an embedding for cameras, as MVDream's has."""
    width = unet.get("projection_class_embeddings_input_dim")
    return unet.get("class_embed_type") == "projection" and width == CAMERA_DIM


def class_embedding(configs: Configs) -> str:
    cameras = told_cameras(configs.get("unet", {}))
    return "" if cameras else has("unet", "class_embed_type")(configs)


def more_embeddings(configs: Configs) -> str:
    keys = ("addition_embed_type", "encoder_hid_dim_type", "encoder_hid_dim")
    return next(filter(None, (has("unet", key)(configs) for key in keys)), "")


def other_text_encoder(configs: Configs) -> str:
    kind = configs.get("text_encoder", {}).get("model_type", TEXT)
    return "" if kind.startswith(TEXT) else f"model_type is {kind}"


def other_channels(configs: Configs) -> str:
    unet, vae = configs.get("unet", {}), configs.get("vae", {})
    channels, out = unet.get("in_channels", 4), unet.get("out_channels", 4)
    latent = vae.get("latent_channels", channels)
    if channels == out == latent:
        return ""
    return f"in_channels is {channels}, out_channels {out}, latents have {latent}"


def other_width(configs: Configs) -> str:
    wanted = configs.get("unet", {}).get("cross_attention_dim")
    given = configs.get("text_encoder", {}).get("hidden_size")
    widths = set(wanted) if isinstance(wanted, list) else {wanted}
    if None in widths or given is None or widths == {given}:
        return ""
    return f"cross_attention_dim is {wanted}, the text encoder's hidden_size {given}"


def scheduler_named(*starts: str) -> Sign:
    def sign(configs: Configs) -> str:
        name = configs.get("scheduler", {}).get("_class_name", "")
        return f"it is a {name}" if name.startswith(starts) else ""

    return sign


def flow(configs: Configs) -> str:
    named = scheduler_named("FlowMatch", "FlowMap", "Piflow")(configs)
    return (
        named
        or has("scheduler", "prediction_type", "flow_prediction")(configs)
        or has("scheduler", "use_flow_sigmas")(configs)
    )


def no_betas(configs: Configs) -> str:
    scheduler = configs.get("scheduler", {})
    stated = {"beta_start", "trained_betas"} & set(scheduler)
    named = "_class_name" in scheduler and not stated
    return f"{scheduler['_class_name']} states no betas" if named else ""


def other_prediction(configs: Configs) -> str:
    stated = configs.get("scheduler", {}).get("prediction_type", "epsilon")
    return "" if stated in PREDICTIONS else f"prediction_type is {stated}"


def epsilon_of_pure_noise(configs: Configs) -> str:
    scheduler = configs.get("scheduler", {})
    if scheduler.get("prediction_type", "epsilon") != "epsilon":
        return ""
    return has("scheduler", "rescale_betas_zero_snr")(configs)


def unmeasured(configs: Configs) -> str:
    unet = configs.get("unet")
    return "sample_size is null" if unet and unet.get("sample_size", 0) is None else ""
