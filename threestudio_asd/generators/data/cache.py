"""What takes minutes to make and is the same each time: latents of pictures, teachers' samples."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from threestudio_asd import homes
from threestudio_asd.files import written_whole
from threestudio_asd.pretrained.files import content_hash
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher


def place() -> homes.Cache:
    """Where they are kept, for all generators that are trained or measured from a folder."""
    folder = Path(".threestudio_cache/generators").absolute()
    remedy = "run in a folder that can be written to"
    return homes.Cache("latents of pictures", folder, remedy, "generators")


def kept(kind: str, decides: Sequence[Any], make: Callable[[], Any]) -> Any:
    """``make()``, tensors and plain values, read back if it was made before.

    Args:
        kind: The beginning of the file's name.
        decides: Everything that the result depends on, as JSON can hold it.
    """
    digest = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]
    path = place().folder() / f"{kind}-{digest}.pt"
    if path.is_file():
        return torch.load(path, weights_only=True)
    made = make()
    with written_whole(path) as partial:
        torch.save(made, partial)
    return made


def model_state(teacher: StableDiffusionTeacher, parts: Sequence[str]) -> list[str]:
    """What results of these parts of a model depend on: their weights, and the precision."""
    return [content_hash(teacher.folder, parts), str(teacher.net.dtype), str(teacher.vae.dtype)]
