"""A reduced, randomly initialised model in Stable Diffusion's folder format.

It draws nothing sensible; it has every interface of the real thing (an f=8 autoencoder with four
latent channels, a CLIP text encoder over 77 tokens, a cross-attention UNet) in less than a
megabyte, so that whatever runs on it runs on Stable Diffusion.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from threestudio_asd.errors import UserError
from threestudio_asd.teachers.views import CAMERA_EMBEDDING, write_views

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

#: Words that the generated vocabulary holds as single tokens; others are spelled letter by letter.
WORDS = (
    "a an the of in on with and photo red green blue yellow white black cube sphere cylinder cone "
    "torus mug table chair snowman tree mushroom house hamburger astronaut front side back "
    "overhead view normal map"
)
PREDICTION_TYPES = ("epsilon", "v_prediction")
TOKENS = 77


def write_random_sd(
    folder: str | Path,
    prediction_type: str = "epsilon",
    seed: int = 0,
    sample_size: int = 8,
    widths: Sequence[int] = (16, 32),
    text_width: int = 24,
    scheduler: str = "DDIMScheduler",
    views: int = 1,
) -> Path:
    """Write the model to ``folder`` and return it; equal arguments give equal weights.

    ``sample_size`` is the latents' side (the image's is eight times that), ``widths`` the UNet's
    channels per level (multiples of 8), ``text_width`` the embedding's (a multiple of 4). With more
    than one of ``views`` the UNet sees so many of a scene together, and is told their cameras.

    Raises UserError on an unknown ``prediction_type``.
    """
    import diffusers

    folder = Path(folder)
    if prediction_type not in PREDICTION_TYPES:
        known = ", ".join(PREDICTION_TYPES)
        raise UserError(f"Unknown prediction type '{prediction_type}'; choose one of: {known}.")
    vocabulary = _write_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        told = CAMERA_EMBEDDING if views > 1 else {}
        unet = random_unet(sample_size, widths, text_width, **told)
        vae = _vae(8 * sample_size)
        text_encoder = _text_encoder(text_width, vocabulary)
    noise = getattr(diffusers, scheduler)(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        num_train_timesteps=1000,
        prediction_type=prediction_type,
        clip_sample=False,
        steps_offset=1,
    )
    unet.save_pretrained(folder / "unet")
    if views > 1:
        write_views(folder / "unet", views)
    vae.save_pretrained(folder / "vae")
    text_encoder.save_pretrained(folder / "text_encoder")
    noise.save_pretrained(folder / "scheduler")
    _write_index(folder, scheduler)
    return folder


def random_unet(
    sample_size: int = 8,
    widths: Sequence[int] = (16, 32),
    text_width: int = 24,
    **settings: Any,
) -> "UNet2DConditionModel":
    """The UNet of such a model, its weights drawn from torch's global generator.

    Args:
        sample_size: The latents' side.
        widths: Channels per level, multiples of 8; the last level has no attention.
        text_width: The text embedding's.
        settings: Others of diffusers' ``UNet2DConditionModel``, in place of the model's, too.
    """
    from diffusers import UNet2DConditionModel

    plain = len(widths) - 1
    model = {
        "sample_size": sample_size,
        "block_out_channels": tuple(widths),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ("CrossAttnDownBlock2D",) * plain + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * plain,
        "cross_attention_dim": text_width,
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(**{**model, **settings})


def _vae(image_size: int):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=image_size,
    )


def _text_encoder(width: int, vocabulary: dict[str, int]):
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
    )
    return CLIPTextModel(config)


def _write_tokenizer(folder: Path) -> dict[str, int]:
    """Write a byte-level BPE vocabulary over ``WORDS``; returns token -> id."""
    merges = list(dict.fromkeys(pair for word in WORDS.split() for pair in _merges(word)))
    alphabet = _byte_alphabet()
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    special = {"bos_token": "<|startoftext|>"}
    special |= dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, **special}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), "utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2), "utf-8")
    return vocabulary


def _merges(word: str) -> list[tuple[str, str]]:
    """Merges that build ``word`` from left to right; its last letter carries the end mark."""
    letters = [*word[:-1], word[-1] + "</w>"]
    return [("".join(letters[:i]), letters[i]) for i in range(1, len(letters))]


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes that byte-level BPE uses, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (b for b in range(256) if b not in printable)
    stand_in = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [stand_in[b] for b in range(256)]


def _write_index(folder: Path, scheduler: str) -> None:
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
