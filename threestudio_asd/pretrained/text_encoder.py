"""Text embeddings of models in Stable Diffusion's folder format (CLIP text encoders)."""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio_asd.pretrained.files import variant_of

#: The sub-folders that an embedding depends on.
TEXT_COMPONENTS = ("tokenizer", "text_encoder")


class TextEncoder:
    """The tokenizer and the frozen CLIP text encoder of a model folder.

    Embeddings are the last hidden state of all L positions (77 for Stable Diffusion), without an
    attention mask over the padding, as Stable Diffusion was trained; in float32. The encoder's
    weights are loaded when first used.
    """

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu") -> None:
        from transformers import AutoTokenizer, CLIPTextConfig

        self.folder, self.device = Path(folder), device
        self.tokenizer = AutoTokenizer.from_pretrained(str(self.folder / "tokenizer"))
        config = CLIPTextConfig.from_pretrained(str(self.folder / "text_encoder"))
        #: Number of token positions L, padding and special tokens included.
        self.max_length = min(self.tokenizer.model_max_length, config.max_position_embeddings)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Float[Tensor, "N L D"]:
        """One embedding for each prompt; what does not fit into L tokens is cut off."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return self._model(tokens.input_ids.to(self.device))[0]

    def too_long(self, prompts: Sequence[str]) -> list[str]:
        """The prompts that are cut off."""
        # Not verbose: the tokenizer would warn, too.
        lengths = [len(self.tokenizer(p, verbose=False).input_ids) for p in prompts]
        return [p for p, n in zip(prompts, lengths, strict=True) if n > self.max_length]

    def unknown_words(self, prompts: Sequence[str]) -> list[str]:
        """Words that the tokenizer maps to its "unknown" token, in order of appearance.

        Byte-level vocabularies such as Stable Diffusion's know every word; word-level ones do not.
        """
        unknown, encode = self.tokenizer.unk_token_id, self.tokenizer.encode
        words = dict.fromkeys(word for p in prompts for word in re.findall(r"[\w'-]+", p))
        return [w for w in words if unknown in encode(w, add_special_tokens=False)]

    def unknown_told(self, prompts: Sequence[str]) -> str | None:
        """A warning of the words that it does not know; None if it knows all."""
        if not (unknown := self.unknown_words(prompts)):
            return None
        return (
            f"The text encoder does not know: {', '.join(unknown)}. It reads each of them as "
            "the same unknown word."
        )

    @cached_property
    def _model(self) -> nn.Module:
        from transformers import CLIPTextModel
        from transformers.utils import logging

        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            folder = str(self.folder / "text_encoder")
            variant = variant_of(self.folder, "text_encoder")
            model = CLIPTextModel.from_pretrained(folder, dtype=torch.float32, variant=variant)
        finally:
            if bars:
                logging.enable_progress_bar()
        return model.to(self.device).eval().requires_grad_(False)
