"""How much nearer to the truth a blurred mesh comes by ``threestudio-asd refine``.

    python scripts/examples.py && python benchmarks/refine.py

The eight fixed views, in the embedded world's light: PSNR on the object's pixels against the true
scene, and the judge.
"""

import argparse
import sys
import time
from pathlib import Path

from threestudio_asd.cli.main import PLUGINS
from threestudio_asd.cli.refine import refine
from threestudio_asd.compare.measure.foreign import fixed_views_of, opinion, psnr
from threestudio_asd.scene.foreign.reading import read_mesh
from threestudio_asd.tiny.evaluation import parse_prompt
from threestudio_asd.tiny.render import fixed_views


def told(name: str, path: Path, prompt: str) -> str:
    """A row of the table."""
    images = fixed_views_of(read_mesh(path))
    truth, coverage = fixed_views(*parse_prompt(prompt))
    right, probability = opinion(images, *parse_prompt(prompt))
    decibels = psnr(images, truth, coverage)
    return f"{name:<12} PSNR {decibels:5.2f} dB   judge {right} of 8, probability {probability:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mesh", type=Path, default=Path("examples/blurred-mushroom.glb"))
    parser.add_argument("--prompt", default="a red mushroom")
    parser.add_argument("--out", type=Path, default=Path("outputs/refine"))
    args, overrides = parser.parse_known_args()
    rows = [told("as it is", args.mesh, args.prompt)]
    began = time.time()
    folder = refine(args.mesh, args.prompt, args.out, plugins=PLUGINS, overrides=overrides)
    seconds = time.time() - began
    rows.append(told("refined", folder / "refined.glb", args.prompt))
    print("\n".join([*rows, f"{seconds:.0f} s in all: {folder}"]))


if __name__ == "__main__":
    sys.exit(main())
