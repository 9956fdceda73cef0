"""Text embeddings on disk, under names that depend on all they were computed from."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.files import written_whole
from threestudio_asd.studio.log import warn

CACHE_DIR = Path(".threestudio_cache/text_embeddings")


class EmbeddingCache:
    """One file for each (model content, prompt).

    Args:
        content: Identifies tokenizer and weights by content: a model retrained in the same folder
            has other files.
        folder: Where they lie; made when needed.
    """

    def __init__(self, content: str, folder: Path = CACHE_DIR) -> None:
        self.content, self.folder = content, folder

    def path(self, prompt: str) -> Path:
        """The file of a prompt."""
        name = hashlib.sha256(f"{self.content}\n{prompt}".encode()).hexdigest()
        return self.folder / f"{name}.pt"

    def embed(
        self, prompts: Sequence[str], compute: Callable[[list[str]], Float[Tensor, "N L D"]]
    ) -> dict[str, Float[Tensor, "L D"]]:
        """Prompt -> embedding; only what is not in the cache is computed, in one call."""
        found = {prompt: self._read(prompt) for prompt in dict.fromkeys(prompts)}
        missing = [prompt for prompt, embedding in found.items() if embedding is None]
        if missing:
            for prompt, embedding in zip(missing, compute(missing).cpu(), strict=True):
                self._write(prompt, embedding)
                found[prompt] = embedding
        return found

    def _read(self, prompt: str) -> Float[Tensor, "L D"] | None:
        path = self.path(prompt)
        if not path.exists():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
            warn(f"The cached text embedding {path} is unreadable ({error}); computing it again.")
            return None

    def _write(self, prompt: str, embedding: Float[Tensor, "L D"]) -> None:
        path = self.path(prompt)
        try:
            with written_whole(path) as partial:  # several processes may write the same
                torch.save(embedding.clone(), partial)
        except OSError as error:
            warn(f"Text embeddings are not cached ({error}).")
