"""CLIP R-precision, for results of real models, whose truth nobody knows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.compare.measure.metrics import r_precision
from threestudio_asd.pretrained.resolve import resolve_model

CLIP_MODEL = "openai/clip-vit-base-patch32"
_ADVICE = "Give a hub id such as 'openai/clip-vit-base-patch32', or the folder of a CLIP model."
# Of the pictures that CLIP was trained on (Radford et al. 2021).
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class CLIP:
    """A CLIP model and its tokenizer, of transformers."""

    model: Any
    tokenizer: Any

    @torch.no_grad()
    def similarity(
        self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, "N P"]:
        """Cosines between images in [0, 1], of any size, and prompts."""
        device = self.model.device
        size = (self.model.config.vision_config.image_size,) * 2
        pixels = F.interpolate(images.to(device), size, mode="bicubic", antialias=True)
        mean, std = (pixels.new_tensor(x).view(1, 3, 1, 1) for x in (_MEAN, _STD))
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=length, return_tensors="pt"
        ).to(device)
        out = self.model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            pixel_values=(pixels.clamp(0, 1) - mean) / std,
        )
        return (out.logits_per_image / self.model.logit_scale.exp()).float().cpu()


def load_clip(path_or_id: str | Path = CLIP_MODEL, device: torch.device | str = "cpu") -> CLIP:
    """A frozen CLIP from a folder, the local hub cache or the hub.

    Raises:
        UserError: The model, which is named, cannot be had; within 20 seconds.
    """
    folder = resolve_model(path_or_id, ("",), _ADVICE)
    from transformers import AutoTokenizer, CLIPModel

    model = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return CLIP(model.to(device).eval().requires_grad_(False), tokenizer)


def clip_r_precision(
    clip: CLIP,
    images: Float[Tensor, "N 3 H W"],
    prompts: Sequence[str],
    which: Int[Tensor, " N"],
) -> float:
    """Share of the images that are nearer to their own prompt, ``prompts[which]``, than to any
    other of ``prompts``; see :func:`threestudio_asd.compare.measure.metrics.r_precision`."""
    return r_precision(clip.similarity(images, prompts), which)
