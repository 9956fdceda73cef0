"""A user's own weights in a Stable Diffusion teacher: a checkpoint.

Files are read here and turned into diffusers modules by diffusers' own converters, so that whatever
it understands (original Stable Diffusion checkpoints) works. Nothing is downloaded.
"""

import pickle
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from threestudio_asd import homes
from threestudio_asd.errors import UserError
from threestudio_asd.pretrained.files import variant_of
from threestudio_asd.pretrained.pickles import refusal
from threestudio_asd.teachers.views import (
    MVDREAM_CAMERA,
    MVDREAM_SETTINGS,
    MVDREAM_VIEWS,
    read_views,
)

# Prefixes of the parts in original Stable Diffusion checkpoints.
_ORIGINAL = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}


class Checkpoint:
    """Weights of the user's, read when first asked for and once, whatever is taken from them.

    Args:
        path: A file (.safetensors, .ckpt, .pt, .bin: a whole model in the original format, also
            MVDream's, or the UNet in either format) or a folder (a model, or a UNet as diffusers
            saves it).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = homes.expanded(path)

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """A file's tensors; raises UserError if it is missing or unreadable."""
        return read_tensors(self.path)


def load_part(
    model_class: Any,
    folder: Path,
    part: str,
    dtype: torch.dtype,
    checkpoint: Checkpoint | None = None,
) -> nn.Module:
    """The UNet or the VAE of a model folder, with the weights of ``checkpoint`` if it holds them.

    Args:
        model_class: diffusers' class of the part.
        folder: A model in Stable Diffusion's format; it gives the architecture in any case.
        part: "unet" or "vae".

    Raises:
        UserError: The checkpoint is missing or unreadable, or fits another architecture.
    """
    if checkpoint is None:
        return _loaded(model_class, folder, part, dtype)
    path = checkpoint.path
    if path.is_dir():
        return _from_folder(model_class, folder, part, dtype, path)
    state = dict(checkpoint.state)  # a copy for the converters, which take things out
    original = any(key.startswith(tuple(_ORIGINAL.values())) for key in state)
    holds_part = _holds(state, _ORIGINAL[part]) if original else part == "unet"
    if not holds_part:
        return load_part(model_class, folder, part, dtype)
    try:
        if part == "unet" and _holds(state, MVDREAM_CAMERA):
            return _of_mvdream(model_class, folder, dtype, state)
        model = model_class.from_single_file(
            state, config=str(folder), subfolder=part, torch_dtype=dtype
        )
    except Exception as error:  # of whatever kind a wrong key or shape causes in the converter
        raise _misfit(path, part, folder) from error
    if any(parameter.is_meta for parameter in model.parameters()):
        raise _misfit(path, part, folder)
    return model


def _of_mvdream(
    model_class: Any, folder: Path, dtype: torch.dtype, state: dict[str, Tensor]
) -> nn.Module:
    """A UNet with MVDream's names, which are Stable Diffusion's but for the camera's layers: to
    diffusers' converter these are a class embedding.

    Raises an error of any kind if names and shapes are not just those of the architecture.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    prefix = _ORIGINAL["unet"]
    own = {
        key.replace(MVDREAM_CAMERA, f"{prefix}label_emb.0."): value
        for key, value in state.items()
        if key.startswith(prefix)
    }
    config = {**model_class.load_config(folder, subfolder="unet"), **MVDREAM_SETTINGS}
    with torch.device("meta"):  # no weights are drawn that the file's replace
        model = model_class.from_config(config)
    converted = convert_ldm_unet_checkpoint(own, model.config)
    if len(converted) != len(own):
        raise ValueError("the converter drops what it does not know")
    model.load_state_dict(converted, assign=True)
    return model.to(dtype)


def views_of(folder: Path, checkpoint: Checkpoint | None = None) -> int:
    """How many views the UNet of a model takes at once, with that of ``checkpoint`` in its place.

    Raises:
        UserError: The note beside the weights cannot be read.
    """
    if checkpoint is None:
        return read_views(folder / "unet")
    saved = checkpoint.path
    if saved.is_dir():
        return read_views(saved / "unet" if (saved / "unet").is_dir() else saved)
    return MVDREAM_VIEWS if _holds(checkpoint.state, MVDREAM_CAMERA) else views_of(folder)


def _from_folder(
    model_class: Any, folder: Path, part: str, dtype: torch.dtype, saved: Path
) -> nn.Module:
    if (saved / part).is_dir():
        return _loaded(model_class, saved, part, dtype)
    if part != "unet" or (saved / "unet").is_dir():
        return load_part(model_class, folder, part, dtype)
    return _loaded(model_class, saved, "", dtype)


def _loaded(model_class: Any, folder: Path, part: str, dtype: torch.dtype) -> nn.Module:
    """The network in the sub-folder ``part`` of ``folder`` ("" is itself), of whatever variant.

    Raises UserError if its weights are not just those of its configuration: diffusers would leave
    random ones in place of those that lack, and drop the others.
    """
    place = folder / part
    try:
        model, found = model_class.from_pretrained(
            folder,
            subfolder=part or None,
            torch_dtype=dtype,
            variant=variant_of(folder, part),
            output_loading_info=True,
        )
    except (ValueError, OSError) as error:
        # After its first sentence the library advises to leave random weights.
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise UserError(f"The weights in {place} cannot be loaded: {reason}.") from error
    for kind, what in (("missing_keys", "lacks"), ("unexpected_keys", "has besides")):
        if names := sorted(found[kind]):
            raise UserError(
                f"The weights in {place} are not those of its config.json: the file {what} "
                f"{names[0]} ({len(names)} in all). Take both from one model, or get it anew."
            )
    return model


def _holds(state: dict[str, Tensor], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in state)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a pickle (tensors only, no code).

    Raises UserError if there is no such file, or it holds something else.
    """
    if not file.is_file():
        raise UserError(f"There is no such file: '{file}'; check LoRA_path and ckpt_path.")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        # Mapped, so that whoever asks for shapes alone reads nothing else.
        mapped = zipfile.is_zipfile(file)
        if not mapped and _begins_as_archive(file):
            raise UserError(f"The file {file} cannot be read: its end is missing; get it anew.")
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        told = refusal(file, error) or "cannot be read: it is damaged, or no file of weights."
        raise UserError(f"The file {file} {told}") from error
    except Exception as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(f"The file {file} cannot be read as weights: {reason}.") from error
    while isinstance(state, dict) and "state_dict" in state:
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise UserError(f"The file {file} holds a {type(state).__name__}, not weights by name.")
    return state


def _begins_as_archive(file: Path) -> bool:
    """Whether the beginning is that of what torch.save writes."""
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def read_metadata(file: Path) -> dict[str, str]:
    """The notes in a .safetensors file's header; other files have none."""
    if file.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}


def _misfit(path: Path, part: str, folder: Path) -> UserError:
    return UserError(
        f"The weights in {path} do not fit the {part} of the model {folder}; set "
        "pretrained_model_name_or_path to the model that they were made for."
    )
