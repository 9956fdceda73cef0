"""The table of the README: one prompt per object and four held-out pairs, one config, one seed.

    python scripts/prompt_table.py [--out outputs/table] [--jobs 2] [key=value ...]
    python scripts/prompt_table.py --sds-scales 7.5 20 50
    python scripts/prompt_table.py --full --out outputs/table-full

Each prompt is distilled with ASD and with SDS (the floor: the same config without a critic), and
judged from the eight fixed views beside ground-truth renders (the ceiling). The second form finds
the scale that serves SDS best, on two prompts; the third takes ASD through all three stages to a
textured mesh, which is judged beside its NeRF. A cell whose figures exist already is not run
again. Writes ``table.md``, ``table.json`` and ``table.png``: per prompt one view of ASD's result,
SDS's and the truth, from top to bottom.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

PROMPTS = (
    "a red mug",
    "a blue mushroom",
    "a green cube",
    "a yellow sphere",
    "a purple cylinder",
    "an orange cone",
    "a cyan torus",
    "a red table",
    "a green chair",
    "a blue snowman",
    "a green tree",
    "a red house",
)
HELD_OUT = ("a purple mug", "a pink cube", "a green mushroom", "a red snowman")
# SDS's scale is chosen on these.
PILOT = ("a red mug", "a green chair")
# The best of 7.5, 20 and 50 on them.
SDS_SCALE = 20.0
ENOUGH = 0.9  # of the judge's accuracy on ground-truth renders

Figures = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run: a prompt with ASD at the config's scale, ``full`` through all stages, or with SDS
    at a scale of its own."""

    prompt: str
    sds_scale: float | None = None
    full: bool = False

    @property
    def name(self) -> str:
        if self.full:
            return f"full-{self.prompt.replace(' ', '_')}"
        method = "asd" if self.sds_scale is None else f"sds-{self.sds_scale:g}"
        return f"{method}-{self.prompt.replace(' ', '_')}"

    @property
    def overrides(self) -> list[str]:
        if self.sds_scale is None:
            return []
        scale = f"system.guidance.guidance_scale={self.sds_scale}"
        # Nobody looks at the floor's turntable, nor at how it came about.
        quick = ["data.n_test_views=1", "trainer.val_check_interval=600"]
        return ["system.guidance.method=sds", scale, *quick]


def run_cell(cell: Cell, record: Path, overrides: list[str]) -> None:
    """Distil and judge in this process; the figures are written last and whole."""
    from threestudio_asd.cli.demo import distil
    from threestudio_asd.cli.main import PLUGINS
    from threestudio_asd.cli.stages import TINY
    from threestudio_asd.cli.trial import judge_trial
    from threestudio_asd.files import written_whole

    root = record.parent.parent / "trials" / cell.name
    configs = TINY if cell.full else TINY[:1]
    # Anew: the seconds of a run that was stopped in between would not be all of its seconds.
    result = distil(cell.prompt, configs, root, PLUGINS, [*cell.overrides, *overrides], new=True)
    figures = {**result.verdict.as_dict(), "seconds": round(result.seconds, 1)}
    figures |= {"prompt": cell.prompt, "picture": str(result.picture)}
    if cell.full:
        nerf, picture = judge_trial(result.trial.parent / "coarse", cell.prompt)
        figures |= {"nerf": nerf.as_dict(), "nerf_picture": str(picture)}
        figures |= mesh_figures(result.mesh)
    with written_whole(record) as partial:
        partial.write_text(json.dumps(figures, indent=1) + "\n")


def mesh_figures(path: Path) -> Figures:
    """Of an exported mesh, its seams of the texture sewn up."""
    import trimesh

    (mesh,) = trimesh.load(path, process=False).geometry.values()
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    parts = mesh.split(only_watertight=False)
    figures = {"faces": len(mesh.faces), "parts": len(parts), "watertight": mesh.is_watertight}
    return {**figures, "mesh": str(path)}


def measure(cells: list[Cell], out: Path, jobs: int, overrides: list[str]) -> dict[Cell, Figures]:
    """The figures of every cell, run in ``jobs`` processes that share the cores evenly."""
    (out / "cells").mkdir(parents=True, exist_ok=True)
    from threestudio_asd.parallel import cores

    threads = max(1, cores() // jobs)

    def one(cell: Cell) -> Figures:
        record = out / "cells" / f"{cell.name}.json"
        if not record.is_file():
            command = [sys.executable, __file__, "--cell", cell.prompt, "--record", str(record)]
            if cell.full:
                command.append("--full")
            if cell.sds_scale is not None:
                command += ["--cell-scale", str(cell.sds_scale)]
            with record.with_suffix(".log").open("w") as log:
                subprocess.run(
                    [*command, *overrides],
                    check=True,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                )
        figures = json.loads(record.read_text())
        print(
            f"{cell.name}: {figures['right_views']}/8, p {figures['probability']:.2f}, "
            f"IoU {figures['silhouette_iou']:.2f}, {figures['seconds']:.0f} s",
            flush=True,
        )
        return figures

    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(cells, pool.map(one, cells), strict=True))


HEADER = (
    "| prompt | ASD: right views | probability | silhouette IoU | seconds "
    "| truth: right views | probability | SDS: right views | probability | silhouette IoU |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def row(prompt: str, asd: Figures, sds: Figures | None) -> str:
    columns = [prompt, f"{asd['right_views']}/8", f"{asd['probability']:.2f}"]
    columns += [f"{asd['silhouette_iou']:.2f}", f"{asd['seconds']:.0f}"]
    columns += [f"{asd['truth_right_views']}/8", f"{asd['truth_probability']:.2f}"]
    if sds is None:
        columns += ["", "", ""]
    else:
        columns += [f"{sds['right_views']}/8", f"{sds['probability']:.2f}"]
        columns += [f"{sds['silhouette_iou']:.2f}"]
    return "| " + " | ".join(columns) + " |"


def reached(figures: list[Figures]) -> int:
    """How many come to ``ENOUGH`` of the judge's accuracy on the truth."""
    return sum(f["right_views"] >= ENOUGH * f["truth_right_views"] for f in figures)


def summary(pairs: dict[str, tuple[Figures, Figures | None]]) -> str:
    lines = []
    for title, prompts in (("prompts", PROMPTS), ("held-out pairs", HELD_OUT)):
        chosen = [pairs[p] for p in prompts if p in pairs]
        if not chosen:
            continue
        line = f"ASD reaches {ENOUGH:.0%} of the judge's accuracy on the truth on "
        line += f"{reached([asd for asd, _ in chosen])} of {len(chosen)} {title}"
        floor = [sds for _, sds in chosen if sds is not None]
        lines.append(line + (f", SDS on {reached(floor)} of {len(floor)}." if floor else "."))
    return "\n".join(lines)


VIEW = 3  # of the eight, azimuth 135 degrees
COLUMNS = 8


def picture(pairs: dict[str, tuple[Figures, Figures | None]]) -> Image.Image:
    """View ``VIEW`` of every prompt; three rows (ASD, SDS, truth) per ``COLUMNS`` prompts."""
    tiles = []
    for asd, sds in pairs.values():
        with Image.open(asd["picture"]) as found:
            size = found.width // 8
            column = [_view(found, size, row=0), None, _view(found, size, row=1)]
        if sds is not None:
            with Image.open(sds["picture"]) as found:
                column[1] = _view(found, size, row=0)
        tiles.append(column)
    if all(sds is None for _, sds in pairs.values()):
        tiles = [[top, bottom] for top, _, bottom in tiles]
    rows, blocks = max(map(len, tiles)), -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (min(len(tiles), COLUMNS) * size, blocks * rows * size), "white")
    for number, column in enumerate(tiles):
        block, x = divmod(number, COLUMNS)
        for y, tile in enumerate(column):
            if tile is not None:
                sheet.paste(tile, (x * size, (block * rows + y) * size))
    return sheet


def _view(found: Image.Image, size: int, row: int) -> Image.Image:
    return found.crop((VIEW * size, row * size, (VIEW + 1) * size, (row + 1) * size))


def write_table(args: argparse.Namespace, overrides: list[str]) -> None:
    prompts = args.only or [*PROMPTS, *HELD_OUT]
    methods = [None] if args.no_sds else [None, SDS_SCALE]
    cells = [Cell(prompt, scale) for scale in methods for prompt in prompts]
    found = measure(cells, args.out, args.jobs, overrides)
    pairs = {p: (found[Cell(p)], found.get(Cell(p, SDS_SCALE))) for p in prompts}
    lines = [HEADER, *(row(prompt, *pair) for prompt, pair in pairs.items())]
    text = "\n".join(lines) + "\n\n" + summary(pairs) + "\n"
    print(text)
    (args.out / "table.md").write_text(text)
    picture(pairs).save(args.out / "table.png")
    records = [{"prompt": p, "asd": asd, "sds": sds} for p, (asd, sds) in pairs.items()]
    (args.out / "table.json").write_text(json.dumps(records, indent=1) + "\n")


FULL_HEADER = (
    "| prompt | mesh: right views | probability | silhouette IoU | watertight | faces "
    "| NeRF: right views | probability | silhouette IoU | seconds, all stages |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def full_row(prompt: str, mesh: Figures) -> str:
    nerf = mesh["nerf"]
    closed = "yes" if mesh["watertight"] else "no"
    columns = [prompt, f"{mesh['right_views']}/8", f"{mesh['probability']:.2f}"]
    columns += [f"{mesh['silhouette_iou']:.2f}", closed, f"{mesh['faces']:,}"]
    columns += [f"{nerf['right_views']}/8", f"{nerf['probability']:.2f}"]
    columns += [f"{nerf['silhouette_iou']:.2f}", f"{mesh['seconds']:.0f}"]
    return "| " + " | ".join(columns) + " |"


def write_full_table(args: argparse.Namespace, overrides: list[str]) -> None:
    cells = [Cell(prompt, full=True) for prompt in args.only or PROMPTS]
    found = {cell.prompt: f for cell, f in measure(cells, args.out, args.jobs, overrides).items()}
    good = sum(f["right_views"] >= 7 for f in found.values())
    kept = sum(f["silhouette_iou"] >= f["nerf"]["silhouette_iou"] for f in found.values())
    lines = [FULL_HEADER, *(full_row(prompt, figures) for prompt, figures in found.items())]
    lines += [
        "",
        f"At least 7 of 8 views of the textured mesh are right for {good} of {len(found)}",
    ]
    lines[-1] += f" prompts; its silhouettes are not worse than the NeRF's for {kept}."
    print("\n".join(lines))
    (args.out / "table.md").write_text("\n".join(lines) + "\n")
    nerfs = {p: {"picture": f["nerf_picture"]} for p, f in found.items()}
    picture({p: (found[p], nerfs[p]) for p in found}).save(args.out / "table.png")
    records = [{"prompt": p, **figures} for p, figures in found.items()]
    (args.out / "table.json").write_text(json.dumps(records, indent=1) + "\n")


def find_sds_scale(args: argparse.Namespace, overrides: list[str]) -> None:
    """Mean figures of SDS on the pilot's prompts for each scale."""
    cells = [Cell(prompt, scale) for scale in args.sds_scales for prompt in PILOT]
    found = measure(cells, args.out, args.jobs, overrides)
    print("| scale | right views | probability | silhouette IoU |\n|---|---|---|---|")
    for scale in args.sds_scales:
        figures = [found[Cell(prompt, scale)] for prompt in PILOT]
        keys = ("right_views", "probability", "silhouette_iou")
        means = [sum(f[key] for f in figures) / len(figures) for key in keys]
        print(f"| {scale:g} | {means[0]:.1f}/8 | {means[1]:.2f} | {means[2]:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/table"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--only", nargs="*", default=None, help="these prompts instead")
    parser.add_argument("--no-sds", action="store_true", help="leave out the floor")
    parser.add_argument("--sds-scales", nargs="+", type=float, help="compare scales of SDS instead")
    parser.add_argument("--full", action="store_true", help="ASD in all stages, to a textured mesh")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--cell-scale", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    args, overrides = parser.parse_known_args()
    if args.cell:
        run_cell(Cell(args.cell, args.cell_scale, args.full), args.record, overrides)
    elif args.sds_scales:
        find_sds_scale(args, overrides)
    elif args.full:
        write_full_table(args, overrides)
    else:
        write_table(args, overrides)


if __name__ == "__main__":
    main()
