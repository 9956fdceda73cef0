"""Text embeddings on disk, under names that depend on all they were computed from."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import homes
from threestudio_asd.errors import UserError
from threestudio_asd.files import written_whole
from threestudio_asd.log import warn

CACHE_DIR = Path(".threestudio_cache/text_embeddings")
_ELSEWHERE = "text_embeddings"


def place(folder: Path = CACHE_DIR) -> homes.Cache:
    """Where embeddings are kept."""
    remedy = "run in a folder that can be written to"
    return homes.Cache("text embeddings", folder.absolute(), remedy, _ELSEWHERE)


class EmbeddingCache:
    """One file for each (model content, prompt).

    Args:
        content: Identifies tokenizer and weights by content: a model retrained in the same folder
            has other files.
        folder: Where they lie; made when needed. If it cannot be written to, they lie elsewhere,
            with a warning.
    """

    def __init__(self, content: str, folder: Path = CACHE_DIR) -> None:
        self.content, self.folder = content, folder

    def path(self, prompt: str, folder: Path | None = None) -> Path:
        """The file of a prompt."""
        name = hashlib.sha256(f"{self.content}\n{prompt}".encode()).hexdigest()
        return (folder or self.folder) / f"{name}.pt"

    def embed(
        self, prompts: Sequence[str], compute: Callable[[list[str]], Float[Tensor, "N L D"]]
    ) -> dict[str, Float[Tensor, "L D"]]:
        """Prompt -> embedding; only what is not in the cache is computed, in one call."""
        found = {prompt: self._read(prompt) for prompt in dict.fromkeys(prompts)}
        missing = [prompt for prompt, embedding in found.items() if embedding is None]
        if missing:
            found |= dict(zip(missing, compute(missing).cpu(), strict=True))
            self._write({prompt: found[prompt] for prompt in missing})
        return found

    def _read(self, prompt: str) -> Float[Tensor, "L D"] | None:
        elsewhere = homes.found_private(_ELSEWHERE)
        paths = [self.path(prompt), *([self.path(prompt, elsewhere)] if elsewhere else [])]
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
            warn(f"The cached text embedding {path} is unreadable ({error}); computing it again.")
            return None

    def _write(self, embeddings: Mapping[str, Float[Tensor, "L D"]]) -> None:
        try:
            folder = place(self.folder).folder()
            for prompt, embedding in embeddings.items():
                # Several processes may write the same.
                with written_whole(self.path(prompt, folder)) as partial:
                    torch.save(embedding.clone(), partial)
        except (OSError, UserError) as error:
            warn(f"Text embeddings are not cached. {error}")
