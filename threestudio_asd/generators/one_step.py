"""Generators of one step as folders: how they are written, and where their teacher is found."""

import copy
import json
from dataclasses import asdict
from pathlib import Path

from threestudio_asd import homes
from threestudio_asd.files import written_whole
from threestudio_asd.pretrained.folders import model_written_whole
from threestudio_asd.pretrained.resolve import resolve_model
from threestudio_asd.teachers.one_step import NOTE, Note, OneStepGenerator
from threestudio_asd.tiny import WEIGHTS, is_embedded


def save_generator(
    generator: OneStepGenerator,
    folder: str | Path,
    teacher: str | Path,
    method: str,
    half: bool = True,
) -> Path:
    """Write a model folder with the UNet, in half precision or in single, the teacher's other parts
    and the note; what lay there goes. The generator itself does not change.

    Args:
        teacher: The model that it was trained from, as a config names it.

    Raises:
        UserError: The teacher cannot be had.
    """
    source = resolve_model(teacher)
    note = Note(generator.init_timestep, method, _name(teacher, source))
    unet = copy.deepcopy(generator.unet)
    unet = unet.half() if half else unet.float()
    with model_written_whole(folder, source, without=("unet",)) as partial:
        unet.save_pretrained(partial / "unet", safe_serialization=True)
        with written_whole(partial / NOTE) as file:
            file.write_text(json.dumps(asdict(note), indent=1) + "\n")
    return Path(folder)


def find_teacher(name: str) -> str:
    """A path or hub id of the teacher that a note names."""
    return str(WEIGHTS / name) if is_embedded(WEIGHTS / name) else name


def _name(teacher: str | Path, folder: Path) -> str:
    """What :func:`find_teacher` finds, on other machines too where that can be."""
    if folder.parent == WEIGHTS and is_embedded(folder):
        return folder.name
    return str(folder.absolute()) if homes.expanded(teacher).is_dir() else str(teacher)
