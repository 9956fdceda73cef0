"""Which models in diffusers' folder format can be teachers, as their configurations tell.

A teacher answers (x_t, t, text) on latents of an autoencoder, with a noise schedule of betas:
Stable Diffusion 1.x and 2.x and whatever was trained from them. Other models have the same
folders and would load, and then fail in the first step or teach something else. They are refused
by name, from a few kilobytes of JSON, before any weights are read or downloaded.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from threestudio_asd.errors import UserError
from threestudio_asd.pretrained.signs import (
    PREDICTIONS,
    UNET,
    VAE,
    Config,
    Configs,
    Sign,
    class_embedding,
    epsilon_of_pure_noise,
    flow,
    has,
    more_embeddings,
    no_betas,
    other_channels,
    other_class,
    other_prediction,
    other_text_encoder,
    other_width,
    scheduler_named,
    unmeasured,
)

_INDEX = "model_index.json"
_PLAIN = "Use Stable Diffusion 1.x or 2.x, or a model that was trained from one of them."
_UPSTREAM = "threestudio itself runs it: threestudio-asd upstream CHECKOUT --config {}."
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
    sign: Sign
    needs: str
    use: str = _PLAIN


_PICTURE = "wants latents of a picture beside x_t"

#: The first row that fits names the model.
KINDS: tuple[Kind, ...] = (
    Kind(
        "a text-to-video or other model than a picture's",
        "unet",
        other_class("unet", UNET),
        f"has another network than {UNET}",
    ),
    Kind(
        "an SDXL model",
        "unet",
        has("unet", "addition_embed_type", "text_time"),
        "wants a pooled text embedding and picture sizes beside (x_t, t, text)",
    ),
    Kind(
        "a Kandinsky 2 or other model with image embeddings",
        "unet",
        has("unet", "addition_embed_type", "image", "image_hint", "text_image"),
        "wants an image embedding beside (x_t, t, text)",
    ),
    Kind(
        "a model with an image encoder",
        "unet",
        has("unet", "encoder_hid_dim_type", "image_proj", "text_image_proj", "ip_image_proj"),
        "wants image embeddings beside (x_t, t, text)",
        "Use the model without its image adapter.",
    ),
    Kind(
        "a DeepFloyd IF model",
        "unet",
        has("unet", "encoder_hid_dim_type", "text_proj"),
        "works on pixels with T5 embeddings",
        _UPSTREAM.format("configs/dreamfusion-if.yaml") + " Here: Stable Diffusion 1.x or 2.x.",
    ),
    Kind(
        "a model with additional embeddings",
        "unet",
        more_embeddings,
        "wants more than (x_t, t, text)",
    ),
    Kind(
        "a guidance-distilled model (LCM)",
        "unet",
        has("unet", "time_cond_proj_dim"),
        "takes the guidance scale as an input and has no unguided prediction",
        "Use the model that it was distilled from.",
    ),
    Kind(
        "an inpainting model",
        "unet",
        has("unet", "in_channels", 9),
        "wants a mask and a masked picture beside x_t",
        "Use the model that it was trained from, such as the one without 'inpainting' in its name.",
    ),
    Kind(
        "a depth-to-image model",
        "unet",
        has("unet", "in_channels", 5),
        "wants a depth map beside x_t",
        "Use the text-to-image model that it was trained from.",
    ),
    Kind(
        "an upscaler",
        "unet",
        has("unet", "in_channels", 7),
        "wants a small picture beside x_t",
    ),
    Kind(
        "an InstructPix2Pix, Zero-1-to-3 or other model of picture pairs",
        "unet",
        has("unet", "in_channels", 8),
        _PICTURE,
        _UPSTREAM.format("configs/instructnerf2nerf.yaml or configs/zero123.yaml")
        + " Here: a text-to-image model.",
    ),
    Kind(
        "a model with class labels",
        "unet",
        has("unet", "num_class_embeds"),
        "wants a class label or a noise level beside (x_t, t, text)",
    ),
    Kind(
        "a model with class embeddings (unCLIP, image variations)",
        "unet",
        class_embedding,
        "wants an embedding of a picture or a class beside (x_t, t, text)",
    ),
    Kind(
        "a model with a consistency or few-step scheduler",
        "scheduler",
        scheduler_named(*_DISTILLED),
        "was distilled to jump to a picture and predicts no noise",
        "Use the model that it was distilled from; if its UNet is an undistilled one, put that "
        "model's scheduler_config.json into the folder.",
    ),
    Kind(
        "a flow-matching model",
        "scheduler",
        flow,
        "predicts a velocity between picture and noise on another schedule",
    ),
    Kind(
        "a model without a schedule of betas (EDM, VE)",
        "scheduler",
        no_betas,
        "was trained on other noise levels",
    ),
    Kind(
        "a model with an unknown prediction type",
        "scheduler",
        other_prediction,
        f"must predict one of: {', '.join(PREDICTIONS)}",
    ),
    Kind(
        "an epsilon model with zero terminal SNR",
        "scheduler",
        epsilon_of_pure_noise,
        "would have to predict the noise where there is nothing else",
        "Set prediction_type to v_prediction in its scheduler_config.json if it was trained so, "
        "else rescale_betas_zero_snr to false.",
    ),
    Kind(
        "a model without a size",
        "unet",
        unmeasured,
        "must tell the side of the latents that it was trained on",
        "Write it into unet/config.json: 64 for pictures of 512 pixels, 96 for 768.",
    ),
    Kind(
        "a model with another autoencoder",
        "vae",
        other_class("vae", VAE),
        f"has no {VAE}, whose latents the UNet was trained on",
        f"Give a folder whose vae is the {VAE} of the same model.",
    ),
    Kind(
        "a model with normalised latents",
        "vae",
        has("vae", "latents_mean"),
        "wants its latents shifted and scaled by channel",
    ),
    Kind(
        "a model of other channels than its autoencoder's",
        "unet",
        other_channels,
        "works on something else than the latents of a picture",
    ),
    Kind(
        "a model with another text encoder than CLIP's",
        "text_encoder",
        other_text_encoder,
        "wants embeddings that are not made here",
    ),
    Kind(
        "a mixture of two models",
        "unet",
        other_width,
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
