"""Pictures that an edit starts from."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from threestudio_asd.errors import UserError


def read_originals(
    place: str | Path, n: int, size: int, key: str = "system.originals"
) -> Float[Tensor, "N 3 H W"]:
    """``n`` square pictures in [0, 1] with sides of ``size`` pixels: ``n`` times that of a file, or
    those of a folder, by name; ``key`` names them in messages.

    Raises:
        UserError: There is nothing at ``place``, it is no picture, or the folder holds another
            number of them.
    """
    place = Path(place)
    if not place.exists():
        raise UserError(f"There is no picture at {key} '{place}'.")
    files = (
        sorted(file for file in place.iterdir() if file.is_file())
        if place.is_dir()
        else [place] * n
    )
    if len(files) != n:
        raise UserError(
            f"{key} '{place}' holds {len(files)} files for {n} particles; set "
            f"system.n_particles={len(files)}, or name one file."
        )
    return torch.stack([_read(file, size) for file in files])


def _read(file: Path, size: int) -> Float[Tensor, "3 H W"]:
    try:
        with Image.open(file) as image:
            small = image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"'{file}' is no picture that can be read: {error}.") from error
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
