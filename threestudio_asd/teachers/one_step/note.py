"""``one_step.json``: what tells a generator's folder from a model's."""

import json
from dataclasses import dataclass
from pathlib import Path

from threestudio_asd import homes
from threestudio_asd.errors import UserError

NOTE = "one_step.json"


@dataclass(frozen=True)
class Note:
    """What ``one_step.json`` says beside the weights.

    Args:
        init_timestep: T.
        method: What trained it.
        teacher: Its teacher: an edition of the embedded model, a folder, or a hub id; see
            ``generators.one_step.find_teacher``.
    """

    init_timestep: int
    method: str
    teacher: str


def read_note(folder: str | Path) -> Note:
    """What the generator in ``folder`` says of itself.

    Raises:
        UserError: There is no such folder, or no note in it that can be read.
    """
    file = homes.expanded(folder) / NOTE
    if not file.parent.is_dir():
        raise UserError(f"There is no folder '{folder}': give one that `one-step train` wrote.")
    if not file.is_file():
        raise UserError(
            f"The folder {folder} holds no generator of one step: it has no {NOTE}. Give a folder "
            "that `one-step train` wrote."
        )
    try:
        found = json.loads(file.read_text("utf-8"))
        values = [found[key] for key in ("init_timestep", "method", "teacher")]
        kinds = [type(value).__name__ for value in values]
        if kinds != ["int", "str", "str"]:
            raise ValueError(f"values of the types {', '.join(kinds)}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read ({error}); it should name init_timestep (a whole number), "
            "method and teacher. Get it anew."
        ) from error
    return Note(*values)
