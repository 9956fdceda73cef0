"""Which parts of a one-step method matter: a table of trainings in the embedded world.

    python benchmarks/one_step_table.py [--only sida sid] [--seeds 0 1 2] [--iterations 400]
    python benchmarks/one_step_table.py --report

Every cell is a training (``CELLS``) of one seed. Its pictures of the captions of true renders are
measured as the teacher's are, from the same noise. What has a record is left alone, and a training
that was stopped goes on, so that the table fills over days. Trainings lie in --out; records, the
table and a picture of the first seed's students beside their teacher in --results.

An interval in the table is of the mean over seeds (Student's t); one seed has none. Rows of the
truth and of the teacher have bootstrap intervals over pictures. Cells that differ in their
iterations or in what they are measured with are never averaged. The minutes of the first training
of a machine include the rendering and encoding of its real pictures.
"""

import argparse
import json
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import report
import torch
from one_step_parts.cells import CELLS, REFERENCES, Cell, chosen
from one_step_parts.table import markdown, picture

from threestudio_asd import log
from threestudio_asd.distill.one_step import ONE_STEP_METHODS
from threestudio_asd.errors import UserError
from threestudio_asd.files import written_whole
from threestudio_asd.generators.config import load
from threestudio_asd.generators.measure.evaluate import SAMPLES, TRUTH
from threestudio_asd.generators.measure.measures import as_json
from threestudio_asd.generators.measure.yardstick import Measured, Yardstick
from threestudio_asd.generators.run import MODEL, run
from threestudio_asd.stop import Stopped
from threestudio_asd.studio.config.structured import config_to_primitive
from threestudio_asd.studio.device import get_device, prepare_cpu
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.one_step import OneStepGenerator, read_note
from threestudio_asd.tiny import model_folder
from threestudio_asd.tiny.judge import load_report
from threestudio_asd.tiny.pictures import as_picture
from threestudio_asd.tiny.scenes import OBJECTS, WORLD_VERSION

SCALES = (1.0, 1.5, 4.0)
NOISE = 3  # the seed of the measured pictures
SPENT = "spent.json"
STRIP = "strip.png"


def train(cell: Cell, place: Path) -> dict[str, float]:
    """The cell's generator in ``place``; minutes spent on it in all, also before it was stopped."""
    file = place / SPENT
    spent = json.loads(file.read_text()) if file.is_file() else {"wall": 0.0, "cpu": 0.0}
    if not (place / MODEL).is_dir():
        began = time.monotonic(), time.process_time()
        try:
            run(load("tiny/sida", [*cell.overrides, f"out={place}"]))
        finally:
            ended = time.monotonic(), time.process_time()
            for name, a, b in zip(("wall", "cpu"), began, ended, strict=True):
                spent[name] += (b - a) / 60
            if place.is_dir():
                with written_whole(file) as partial:
                    partial.write_text(json.dumps(spent))
    return spent


def record_of(row: Measured, yardstick: Yardstick, teacher: str) -> dict[str, Any]:
    """The figures, and with what they were measured."""
    return {
        "title": row.series,
        "evaluations": row.evaluations,
        "figures": as_json(row.figures),
        "measured": {
            "samples": yardstick.samples,
            "truth": yardstick.truth,
            "noise": yardstick.seed,
            "teacher": teacher,
            "judge": load_report()["sha256"],
            "world": WORLD_VERSION,
        },
        "machine": report.describe(get_device()) | versions(),
    }


def versions() -> dict[str, str]:
    """Of what the figures depend on beside torch."""
    names = ("threestudio-asd", "diffusers", "transformers", "pytorch-lightning")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}


def strip(row: Measured) -> torch.Tensor:
    """The first picture of each object, side by side, (3, 64, 64 n) in 0 .. 255."""
    first: dict[str, int] = {}
    for i, (name, _) in enumerate(row.pairs):
        first.setdefault(name, i)
    return torch.cat([row.images[first[name]] for name in OBJECTS if name in first], dim=-1)


def save_strip(row: Measured, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        as_picture(strip(row) / 255).save(partial, format="PNG")


def write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")
    print(path, flush=True)


def measure_references(yardstick: Yardstick, out: Path, results: Path) -> None:
    """The truth, and the teacher at each scale; each is measured once."""
    name = Path(model_folder("tiny-shapes")).name
    missing = [key for key in REFERENCES if not (results / f"{key}.json").is_file()]
    if not missing:
        return
    teacher = StableDiffusionTeacher.from_pretrained(model_folder(name), device=get_device())

    def keep(key: str, row: Measured) -> None:
        save_strip(row, out / key / STRIP)
        write(results / f"{key}.json", record_of(row, yardstick, name))

    truth = ("true-renders", "autoencoder")
    if set(truth) & set(missing):
        for key, row in zip(truth, yardstick.of_truth(teacher), strict=True):
            keep(key, row)
    for scale in SCALES:
        if (key := f"teacher-{scale:g}") in missing:
            keep(key, yardstick.of_teacher(teacher, scale))


def fill(cell: Cell, yardstick: Yardstick, out: Path, results: Path) -> None:
    """Train and measure one cell, unless there is its record."""
    if (record := results / f"{cell.key}.json").is_file():
        return
    place = out / cell.key
    spent = train(cell, place)
    note = read_note(place / MODEL)
    model = StableDiffusionTeacher.from_pretrained(place / MODEL, device=get_device())
    generator = OneStepGenerator.of(model.net, note.init_timestep)
    row = yardstick.of_generator(cell.name, generator, model)
    save_strip(row, place / STRIP)
    cfg = load("tiny/sida", cell.overrides)
    settings = ONE_STEP_METHODS.get(cfg.method).with_settings(
        config_to_primitive(cfg.settings), cell.name
    )
    trained = {
        "cell": cell.name,
        "seed": cell.seed,
        "iterations": cell.iterations,
        "method": cfg.method,
        "settings": vars(settings),
        "reals": config_to_primitive(cfg.reals),
        "pieces": cfg.pieces,
        "minutes": {name: round(value, 2) for name, value in spent.items()},
    }
    write(record, trained | record_of(row, yardstick, note.teacher))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--only", nargs="+", metavar="CELL", help=", ".join(CELLS))
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--iterations", type=int, default=400)
    p.add_argument("--samples", type=int, default=SAMPLES, help="measured pictures of each")
    p.add_argument("--truth", type=int, default=TRUTH, help="true renders to measure against")
    p.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of every training")
    p.add_argument("--no-references", action="store_true", help="the teacher's minutes another day")
    p.add_argument("--report", action="store_true", help="the table and the picture alone")
    p.add_argument("--out", type=Path, default=Path("outputs/one-step/grid"))
    p.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "one-step")
    return p


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    log.setup_logging(False)
    prepare_cpu()
    cells = chosen(args.only, args.seeds, args.iterations, args.set)
    yardstick = Yardstick(args.samples, args.truth, NOISE)
    if not args.report:
        # Seed by seed, so that a table that is not full yet has all its rows.
        for cell in cells:
            fill(cell, yardstick, args.out, args.results)
        if not args.no_references:
            measure_references(yardstick, args.out, args.results)
    print(markdown(args.results))
    print(picture(args.out, args.results, STRIP))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    except Stopped as stopped:
        log.info("Stopped; the same command goes on.")
        raise SystemExit(stopped.code) from stopped
