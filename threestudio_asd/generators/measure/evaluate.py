"""Generators of one step beside their teacher: quality for every number of network evaluations.

In the embedded world alone, whose truth is known: every picture has the caption of a true render
that no teacher was trained on, teacher and generators start from the same noise, and the judge's
features are those in which distances are measured.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from threestudio_asd.errors import UserError
from threestudio_asd.files import written_whole
from threestudio_asd.generators.measure.measures import as_json
from threestudio_asd.generators.measure.yardstick import Measured, Yardstick
from threestudio_asd.generators.one_step import find_teacher
from threestudio_asd.studio.device import get_device
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.one_step import Note, OneStepGenerator, read_note
from threestudio_asd.tiny.judge import load_report
from threestudio_asd.tiny.render import EVAL_SIZE
from threestudio_asd.tiny.scenes import WORLD_VERSION

SAMPLES = 1024
TRUTH = 4096
RESULTS = "results.json"


@dataclass(frozen=True)
class Request:
    """What to measure.

    Args:
        folders: Generators.
        teacher: A folder or hub id; by default the one that the generators name.
        steps: Of the generators.
        scales: Guidance scales of the teacher's 25 DDIM steps.
        samples: Pictures of each.
        truth: True renders that they are measured against.
        seed: Of the noise.

    Raises:
        UserError: A number is too small, or there is nothing to measure.
    """

    folders: Sequence[Path]
    teacher: str | None = None
    steps: Sequence[int] = (1, 2, 4)
    scales: Sequence[float] = (1.0, 1.5, 4.0)
    samples: int = SAMPLES
    truth: int = TRUTH
    seed: int = 3

    def __post_init__(self) -> None:
        if self.samples < 2 or self.truth < self.samples:
            raise UserError(
                f"{self.samples} samples against {self.truth} true renders: measure at least two "
                "samples, against at least as many renders, whose captions they have."
            )
        if not self.folders or not self.steps:
            raise UserError("Name at least one generator and one number of steps.")


@dataclass(frozen=True, eq=False)
class Results:
    """Everything that was measured.

    Args:
        teacher: As a note names it.
        notes: Of the generators, by title.
    """

    request: Request
    teacher: str
    notes: dict[str, Note]
    rows: list[Measured]

    def save(self, out: Path, commands: Sequence[str], machine: str) -> Path:
        """``results.json`` in ``out``: the figures as [value, low, high]."""
        found = {
            "samples": self.request.samples,
            "truth": self.request.truth,
            "seed": self.request.seed,
            "teacher": self.teacher,
            "generators": {title: vars(note) for title, note in self.notes.items()},
            "rows": [
                {
                    "series": row.series,
                    "evaluations": row.evaluations,
                    **as_json(row.figures),
                }
                for row in self.rows
            ],
            "judge": load_report()["sha256"],
            "world": WORLD_VERSION,
            "commands": list(commands),
            "machine": machine,
        }
        with written_whole(out / RESULTS) as partial:
            partial.write_text(json.dumps(found, indent=1) + "\n")
        return out / RESULTS


def evaluate(request: Request) -> Results:
    """Measure true renders, the autoencoder alone, the teacher, and the generators.

    Raises:
        UserError: A folder is no generator, the models are not of the embedded world's size, or
            the generators have several teachers and none is named.
    """
    notes = _titled(request.folders)
    name = _teacher_name(request, list(notes.values()))
    teacher = _model(find_teacher(name))
    models = {title: _model(folder) for title, folder in zip(notes, request.folders, strict=True)}
    generators = {
        title: OneStepGenerator.of(models[title].net, note.init_timestep)
        for title, note in notes.items()
    }
    for generator in generators.values():  # what cannot be is told before minutes of sampling
        generator.timesteps(max(request.steps))
    yardstick = Yardstick(request.samples, request.truth, request.seed)
    rows = yardstick.of_truth(teacher)
    rows += [yardstick.of_teacher(teacher, scale) for scale in request.scales]
    for title, generator in generators.items():
        for steps in request.steps:
            rows.append(yardstick.of_generator(title, generator, models[title], steps))
    return Results(request, name, notes, rows)


def _titled(folders: Sequence[Path]) -> dict[str, Note]:
    """The notes by title: the method, or the folder where two have one method."""
    notes = [read_note(folder) for folder in folders]
    for title_of in (lambda f, n: n.method, lambda f, n: f.name, lambda f, n: str(f)):
        titles = [title_of(folder, note) for folder, note in zip(folders, notes, strict=True)]
        if len(set(titles)) == len(titles):
            break
    else:
        raise UserError("A generator is named twice; name each once.")
    return dict(zip(titles, notes, strict=True))


def _teacher_name(request: Request, notes: Sequence[Note]) -> str:
    if request.teacher is not None:
        return request.teacher
    names = sorted({note.teacher for note in notes})
    if len(names) > 1:
        raise UserError(
            f"The generators have different teachers ({', '.join(names)}); name one with --teacher."
        )
    return names[0]


def _model(path_or_id: str | Path) -> StableDiffusionTeacher:
    model = StableDiffusionTeacher.from_pretrained(path_or_id, device=get_device())
    if model.image_size != EVAL_SIZE:
        raise UserError(
            f"The model {path_or_id} draws {model.image_size} pixels: what is measured are "
            f"pictures of the embedded world, of {EVAL_SIZE} pixels."
        )
    return model
