"""The table of the README: one prompt per object and four held-out pairs, one config, one seed.

    python scripts/prompt_table.py [--out outputs/table] [--only "a red mug" ...] [key=value ...]

Each prompt is distilled with ASD and with SDS (the floor; the same config without a critic, at the
scale that served SDS best), and judged from the eight fixed views beside ground-truth renders (the
ceiling). A prompt whose figures exist already is not run again. Writes ``table.md`` and
``table.json``.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

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
SDS = ("system.guidance.method=sds", "system.guidance.guidance_scale=30.0")


def measure(prompt: str, method: str, out: Path, overrides: list[str]) -> dict:
    """The figures of one prompt, from ``out`` or from a run in a process of its own."""
    record = out / "cells" / f"{method}-{prompt.replace(' ', '_')}.json"
    if not record.is_file():
        record.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--cell", prompt, "--record", str(record)]
        extra = list(SDS) if method == "sds" else []
        command += ["--out", str(out / method), *extra, *overrides]
        subprocess.run(command, check=True)
    return json.loads(record.read_text())


def run_cell(prompt: str, record: Path, out: Path, overrides: list[str]) -> None:
    from threestudio_asd.cli.demo import distil
    from threestudio_asd.cli.main import PLUGINS

    result = distil(prompt, root=out, plugins=PLUGINS, overrides=overrides)
    figures = {**result.verdict.as_dict(), "seconds": round(result.seconds, 1)}
    record.write_text(json.dumps({"prompt": prompt, **figures}, indent=1) + "\n")


def row(prompt: str, asd: dict, sds: dict | None) -> str:
    cells = [prompt, f"{asd['right_views']}/8", f"{asd['probability']:.2f}"]
    cells += [f"{asd['silhouette_iou']:.2f}", f"{asd['seconds']:.0f}"]
    cells += [f"{asd['truth_right_views']}/8", f"{asd['truth_probability']:.2f}"]
    if sds is None:
        cells += ["", "", ""]
    else:
        cells += [f"{sds['right_views']}/8", f"{sds['probability']:.2f}"]
        cells += [f"{sds['silhouette_iou']:.2f}"]
    return "| " + " | ".join(cells) + " |"


HEADER = (
    "| prompt | right views | probability | silhouette IoU | seconds "
    "| truth: right | truth: probability | SDS: right | SDS: probability | SDS: IoU |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/table"))
    parser.add_argument("--only", nargs="*", default=None, help="these prompts instead")
    parser.add_argument("--no-sds", action="store_true", help="leave out the floor")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    args, overrides = parser.parse_known_args()
    if args.cell:
        run_cell(args.cell, args.record, args.out, overrides)
        return
    lines, figures = [HEADER], []
    for prompt in args.only or (*PROMPTS, *HELD_OUT):
        asd = measure(prompt, "asd", args.out, overrides)
        sds = None if args.no_sds else measure(prompt, "sds", args.out, overrides)
        figures.append({"prompt": prompt, "asd": asd, "sds": sds})
        lines.append(row(prompt, asd, sds))
        print("\n".join(lines), flush=True)
        (args.out / "table.md").write_text("\n".join(lines) + "\n")
        (args.out / "table.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
