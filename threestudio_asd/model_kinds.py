"""Which models in diffusers' folder format can be teachers, as their configurations tell.

A teacher answers (x_t, t, text) on latents of an autoencoder, with a noise schedule of betas:
Stable Diffusion 1.x and 2.x and whatever was trained from them. Other models have the same
folders and would load, and then fail in the first step or teach something else. They are refused
by name, from a few kilobytes of JSON, before any weights are read or downloaded.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threestudio_asd.errors import UserError

Config = Mapping[str, Any]
#: Part of a model ("" is the whole: model_index.json) -> its configuration; absent parts are left
#: out.
Configs = Mapping[str, Config]

_INDEX = "model_index.json"
_PLAIN = "Use Stable Diffusion 1.x or 2.x, or a model that was trained from one of them."
_UPSTREAM = "threestudio itself runs it: threestudio-asd upstream CHECKOUT --config {}."
# The architectures of the parts that we can load.
_UNET, _VAE, _TEXT = "UNet2DConditionModel", "AutoencoderKL", "clip"
_PREDICTIONS = ("epsilon", "v_prediction", "sample")
_DISTILLED = ("LCM", "TCD", "CMStochastic", "ConsistencyDecoder", "SCM")


@dataclass(frozen=True)
class Kind:
    """A kind of model that cannot be a teacher.

    Args:
        name: What it is, with its article.
        part: Whose configuration betrays it.
        sign: What betrays it, as a text for the message; "" if the model is not of this kind.
        needs: Why it is no teacher, a clause after "which".
        use: What to do instead.
    """

    name: str
    part: str
    sign: Callable[[Configs], str]
    needs: str
    use: str = _PLAIN


def _has(part: str, key: str, *values: Any) -> Callable[[Configs], str]:
    """The sign that ``key`` is set, to one of ``values`` if any are given."""

    def sign(configs: Configs) -> str:
        value = configs.get(part, {}).get(key)
        found = value in values if values else value not in (None, False)
        return f"{key} is {value}" if found else ""

    return sign


def _other_class(part: str, known: str) -> Callable[[Configs], str]:
    def sign(configs: Configs) -> str:
        name = configs.get(part, {}).get("_class_name", known)
        return "" if name == known else f"it is a {name}"

    return sign


def _more_embeddings(configs: Configs) -> str:
    keys = ("addition_embed_type", "encoder_hid_dim_type", "encoder_hid_dim")
    return next(filter(None, (_has("unet", key)(configs) for key in keys)), "")


def _other_text_encoder(configs: Configs) -> str:
    kind = configs.get("text_encoder", {}).get("model_type", _TEXT)
    return "" if kind.startswith(_TEXT) else f"model_type is {kind}"


def _other_channels(configs: Configs) -> str:
    unet, vae = configs.get("unet", {}), configs.get("vae", {})
    channels, out = unet.get("in_channels", 4), unet.get("out_channels", 4)
    latent = vae.get("latent_channels", channels)
    if channels == out == latent:
        return ""
    return f"in_channels is {channels}, out_channels {out}, latents have {latent}"


def _other_width(configs: Configs) -> str:
    wanted = configs.get("unet", {}).get("cross_attention_dim")
    given = configs.get("text_encoder", {}).get("hidden_size")
    widths = set(wanted) if isinstance(wanted, list) else {wanted}
    if None in widths or given is None or widths == {given}:
        return ""
    return f"cross_attention_dim is {wanted}, the text encoder's hidden_size {given}"


def _scheduler_named(*starts: str) -> Callable[[Configs], str]:
    def sign(configs: Configs) -> str:
        name = configs.get("scheduler", {}).get("_class_name", "")
        return f"it is a {name}" if name.startswith(starts) else ""

    return sign


def _flow(configs: Configs) -> str:
    named = _scheduler_named("FlowMatch", "FlowMap", "Piflow")(configs)
    return (
        named
        or _has("scheduler", "prediction_type", "flow_prediction")(configs)
        or _has("scheduler", "use_flow_sigmas")(configs)
    )


def _no_betas(configs: Configs) -> str:
    scheduler = configs.get("scheduler", {})
    stated = {"beta_start", "trained_betas"} & set(scheduler)
    named = "_class_name" in scheduler and not stated
    return f"{scheduler['_class_name']} states no betas" if named else ""


def _other_prediction(configs: Configs) -> str:
    stated = configs.get("scheduler", {}).get("prediction_type", "epsilon")
    return "" if stated in _PREDICTIONS else f"prediction_type is {stated}"


def _epsilon_of_pure_noise(configs: Configs) -> str:
    scheduler = configs.get("scheduler", {})
    if scheduler.get("prediction_type", "epsilon") != "epsilon":
        return ""
    return _has("scheduler", "rescale_betas_zero_snr")(configs)


def _unmeasured(configs: Configs) -> str:
    unet = configs.get("unet")
    return "sample_size is null" if unet and unet.get("sample_size", 0) is None else ""


_PICTURE = "wants latents of a picture beside x_t"

#: The first row that fits names the model.
KINDS: tuple[Kind, ...] = (
    Kind(
        "a text-to-video or other model than a picture's",
        "unet",
        _other_class("unet", _UNET),
        f"has another network than {_UNET}",
    ),
    Kind(
        "an SDXL model",
        "unet",
        _has("unet", "addition_embed_type", "text_time"),
        "wants a pooled text embedding and picture sizes beside (x_t, t, text)",
    ),
    Kind(
        "a Kandinsky 2 or other model with image embeddings",
        "unet",
        _has("unet", "addition_embed_type", "image", "image_hint", "text_image"),
        "wants an image embedding beside (x_t, t, text)",
    ),
    Kind(
        "a model with an image encoder",
        "unet",
        _has("unet", "encoder_hid_dim_type", "image_proj", "text_image_proj", "ip_image_proj"),
        "wants image embeddings beside (x_t, t, text)",
        "Use the model without its image adapter.",
    ),
    Kind(
        "a DeepFloyd IF model",
        "unet",
        _has("unet", "encoder_hid_dim_type", "text_proj"),
        "works on pixels with T5 embeddings",
        _UPSTREAM.format("configs/dreamfusion-if.yaml") + " Here: Stable Diffusion 1.x or 2.x.",
    ),
    Kind(
        "a model with additional embeddings",
        "unet",
        _more_embeddings,
        "wants more than (x_t, t, text)",
    ),
    Kind(
        "a guidance-distilled model (LCM)",
        "unet",
        _has("unet", "time_cond_proj_dim"),
        "takes the guidance scale as an input and has no unguided prediction",
        "Use the model that it was distilled from.",
    ),
    Kind(
        "an inpainting model",
        "unet",
        _has("unet", "in_channels", 9),
        "wants a mask and a masked picture beside x_t",
        "Use the model that it was trained from, such as the one without 'inpainting' in its name.",
    ),
    Kind(
        "a depth-to-image model",
        "unet",
        _has("unet", "in_channels", 5),
        "wants a depth map beside x_t",
        "Use the text-to-image model that it was trained from.",
    ),
    Kind(
        "an upscaler",
        "unet",
        _has("unet", "in_channels", 7),
        "wants a small picture beside x_t",
    ),
    Kind(
        "an InstructPix2Pix, Zero-1-to-3 or other model of picture pairs",
        "unet",
        _has("unet", "in_channels", 8),
        _PICTURE,
        _UPSTREAM.format("configs/instructnerf2nerf.yaml or configs/zero123.yaml")
        + " Here: a text-to-image model.",
    ),
    Kind(
        "a model with class labels",
        "unet",
        _has("unet", "num_class_embeds"),
        "wants a class label or a noise level beside (x_t, t, text)",
    ),
    Kind(
        "a model with class embeddings (unCLIP, image variations)",
        "unet",
        _has("unet", "class_embed_type"),
        "wants an embedding of a picture or a class beside (x_t, t, text)",
    ),
    Kind(
        "a model with a consistency or few-step scheduler",
        "scheduler",
        _scheduler_named(*_DISTILLED),
        "was distilled to jump to a picture and predicts no noise",
        "Use the model that it was distilled from; if its UNet is an undistilled one, put that "
        "model's scheduler_config.json into the folder.",
    ),
    Kind(
        "a flow-matching model",
        "scheduler",
        _flow,
        "predicts a velocity between picture and noise on another schedule",
    ),
    Kind(
        "a model without a schedule of betas (EDM, VE)",
        "scheduler",
        _no_betas,
        "was trained on other noise levels",
    ),
    Kind(
        "a model with an unknown prediction type",
        "scheduler",
        _other_prediction,
        f"must predict one of: {', '.join(_PREDICTIONS)}",
    ),
    Kind(
        "an epsilon model with zero terminal SNR",
        "scheduler",
        _epsilon_of_pure_noise,
        "would have to predict the noise where there is nothing else",
        "Set prediction_type to v_prediction in its scheduler_config.json if it was trained so, "
        "else rescale_betas_zero_snr to false.",
    ),
    Kind(
        "a model without a size",
        "unet",
        _unmeasured,
        "must tell the side of the latents that it was trained on",
        "Write it into unet/config.json: 64 for pictures of 512 pixels, 96 for 768.",
    ),
    Kind(
        "a model with another autoencoder",
        "vae",
        _other_class("vae", _VAE),
        f"has no {_VAE}, whose latents the UNet was trained on",
        f"Give a folder whose vae is the {_VAE} of the same model.",
    ),
    Kind(
        "a model with normalised latents",
        "vae",
        _has("vae", "latents_mean"),
        "wants its latents shifted and scaled by channel",
    ),
    Kind(
        "a model of other channels than its autoencoder's",
        "unet",
        _other_channels,
        "works on something else than the latents of a picture",
    ),
    Kind(
        "a model with another text encoder than CLIP's",
        "text_encoder",
        _other_text_encoder,
        "wants embeddings that are not made here",
    ),
    Kind(
        "a mixture of two models",
        "unet",
        _other_width,
        "has a text encoder of another width than its UNet's",
        "Take unet and text_encoder from one model.",
    ),
)


def config_file(part: str) -> str:
    """Where a model keeps the configuration of ``part``."""
    if not part:
        return _INDEX
    return f"{part}/scheduler_config.json" if part == "scheduler" else f"{part}/config.json"


def read_configs(folder: Path, parts: Iterable[str]) -> dict[str, Config]:
    """The configurations of ``parts`` that ``folder`` has; an empty file says nothing.

    Raises:
        UserError: One of them is no JSON.
    """
    files = {part: folder / config_file(part) for part in parts}
    there = {part: file for part, file in files.items() if file.is_file() and file.stat().st_size}
    return {part: read_config(file) for part, file in there.items()}


def read_config(file: Path) -> Config:
    """One configuration; raises UserError if it is no JSON object."""
    try:
        config = json.loads(file.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"The configuration {file} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise UserError(f"The configuration {file} cannot be read: it is no JSON object.")
    return config


def require_teacher(model: str | Path, configs: Configs) -> None:
    """Raises UserError if ``configs`` are those of a model of another kind; it names the kind.

    Args:
        model: The name by which a person knows the model.
    """
    for kind in KINDS:
        if sign := kind.sign(configs):
            raise UserError(
                f"The model {model} cannot be a teacher: it is {kind.name}, which {kind.needs} "
                f"({kind.part}: {sign}). {kind.use}"
            )


def pipeline(names: Iterable[str], index: Config) -> str:
    """What a model without a UNet is, as its file names and its model_index.json tell; or ""."""
    folders = {name.split("/")[0] for name in names if "/" in name}
    name = str(index.get("_class_name", "another pipeline"))
    if "transformer" in folders:
        return f"It is a diffusion transformer ({name}), not a UNet. {_PLAIN}"
    if "prior" in folders or "decoder" in folders:
        return f"It is a pipeline of a prior and a decoder ({name}). {_PLAIN}"
    if "image_encoder" in folders:
        return f"It is a model of picture variations ({name}), without text. {_PLAIN}"
    return ""
