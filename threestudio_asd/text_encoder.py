"""Text embeddings of models in Stable Diffusion's folder format (CLIP text encoders)."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

#: The sub-folders that an embedding depends on.
TEXT_COMPONENTS = ("tokenizer", "text_encoder")


class TextEncoder:
    """The tokenizer and the frozen CLIP text encoder of a model folder.

    Embeddings are the last hidden state of all L positions (77 for Stable Diffusion), without an
    attention mask over the padding, as Stable Diffusion was trained; in float32.
    """

    def __init__(
        self,
        folder: str | Path,
        device: torch.device | str = "cpu",
    ) -> None:
        from transformers import AutoTokenizer, CLIPTextModel

        self.tokenizer = AutoTokenizer.from_pretrained(str(Path(folder) / "tokenizer"))
        model = CLIPTextModel.from_pretrained(
            str(Path(folder) / "text_encoder"), dtype=torch.float32
        )
        self.model = model.to(device).eval().requires_grad_(False)

    @property
    def max_length(self) -> int:
        """Number of token positions L, padding and special tokens included."""
        positions = self.model.config.max_position_embeddings
        return min(self.tokenizer.model_max_length, positions)

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
        return self.model(tokens.input_ids.to(self.model.device))[0].float()

    def too_long(self, prompt: str) -> bool:
        """Whether part of the prompt is cut off."""
        return len(self.tokenizer(prompt).input_ids) > self.max_length

    def unknown_words(self, prompts: Sequence[str]) -> list[str]:
        """Words that the tokenizer maps to its "unknown" token, in order of appearance.

        Byte-level vocabularies such as Stable Diffusion's know every word; word-level ones do not.
        """
        unknown = self.tokenizer.unk_token_id
        words = dict.fromkeys(word for p in prompts for word in re.findall(r"[\w'-]+", p))
        encode = self.tokenizer.encode
        return [w for w in words if unknown in encode(w, add_special_tokens=False)]
